"""What `ttc plan --serve` says of a load against the real core under the same load, on this machine's CPU.

    python -m benchmarks.serve_plan_check [--seconds 30] [--clock thread|wall] [-o FILE]

The miniature on ONNX Runtime, one thread, a core of 16 rows. For every mode, in one run:

1. *Calibration*: closed loops of 1, 2, 4, 8 and 16 clients. Medians of their calls by kind, width and rows
   become the cost model; so do what a tick takes outside its calls, the steps that blocks took, and the share
   of drafts that was accepted.
2. *The load*: requests at random times, at 60 % of what 16 clients got through, other prompts, other seeds.
   The real core serves it; the simulation is given when the requests come and how long they are, nothing else
   of it.

By default the real core's clock is the work of the one thread that computes, and where it would wait for a
request it skips that time: another program's share of the processor is not taken for the core's. `--clock
wall` is for a quiet machine. Printed: every figure, simulated and measured, and their ratio.
"""

import os

os.environ.setdefault("OMP_NUM_THREADS", "1")

import argparse
import dataclasses
import random
import shlex
import statistics
import sys
import tempfile
import time
from collections import Counter, defaultdict
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import ttc
from ttc.bench.identity import load_average, machine, now
from ttc.bench.record_file import record_file, write_record
from ttc.formats.shipped import shipped_checkpoint
from ttc.planning.simulation.arrivals import Asks, ClosedLoop, Load, OpenLoad, Visit, poisson
from ttc.planning.simulation.behaviour import MeasuredSteps
from ttc.planning.simulation.costs import MeasuredCosts
from ttc.planning.simulation.drive import Span, drive
from ttc.planning.simulation.figures import Figures, figures
from ttc.planning.simulation.lengths import Lengths
from ttc.planning.simulation.recording import Recorder
from ttc.planning.simulation.server import Server
from ttc.runtime.decoding.clock import WallClock
from ttc.runtime.decoding.core import Core
from ttc.runtime.decoding.device import BackendDevice
from ttc.runtime.decoding.modes.table import ModeTable
from ttc.runtime.decoding.plan import CoreLimits
from ttc.runtime.decoding.request import RowRequest
from ttc.runtime.decoding.rows import Row
from ttc.runtime.decoding.speculative.policy import FixedPolicy
from ttc.runtime.requests import RequestReader

MODES = ("ar", "diffusion", "lossless")
LIMITS, CHUNK, ROOM, NEW, DRAFT_STEPS = CoreLimits(16, None, 512), 64, 1024, 128, 2
CLIENTS, REQUESTS_PER_CLIENT, UTILISATION = (1, 2, 4, 8, 16), 3, 0.6
PROMPTS, ANSWERS = Lengths.parse("8-160"), Lengths.parse("16-96")
SHOWN = (
    "tokens_per_second",
    "first_p50",
    "first_p95",
    "whole_p50",
    "whole_p95",
    "rows_mean",
    "tokens_per_nfe",
)


def main() -> None:
    """Calibrate, serve, simulate, print."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else None)
    parser.add_argument("--seconds", type=float, default=30.0, help="of the load of every mode")
    parser.add_argument("--clock", choices=("thread", "wall"), default="thread")
    parser.add_argument("-o", "--output", type=record_file, help="write the figures here as JSON")
    given = parser.parse_args()
    report: dict[str, Any] = {
        "clock": given.clock,
        "command": shlex.join(["python", "-m", "benchmarks.serve_plan_check", *sys.argv[1:]]),
        "started": now(),
        "load_at_start": load_average(),
        "machine": dataclasses.asdict(machine()),
    }
    with tempfile.TemporaryDirectory() as folder:
        bundle = ttc.export(shipped_checkpoint(), Path(folder) / "model.bundle")
        with ttc.load(bundle, threads=1) as engine:
            report["modes"] = {mode: check(engine, mode, given.seconds, given.clock) for mode in MODES}
    report["load_at_end"] = load_average()
    show(report)
    if given.output is not None:
        write_record(given.output, report)


def check(engine: ttc.Engine, mode: str, seconds: float, clock: str) -> dict[str, Any]:
    """Return the figures of one mode, simulated and measured."""
    asks = Asks(PROMPTS, ANSWERS, mode, ROOM - NEW, NEW)
    calibration = [Run(engine, mode, clock) for _ in CLIENTS]
    for clients, run in zip(CLIENTS, calibration, strict=True):
        run.serve(closed(asks, clients, seed=clients))
    server = calibrated(engine, calibration)
    busiest = calibration[-1].figures
    rate = UTILISATION * busiest.requests / busiest.seconds
    visits = poisson(rate, seconds, 99, asks)
    started = time.perf_counter()
    simulated = figures([server.simulate(OpenLoad(visits))])
    simulating = time.perf_counter() - started
    real = Run(engine, mode, clock)
    real.serve(OpenLoad(visits))
    said, seen = (dataclasses.asdict(one) for one in (simulated, real.figures))
    return {
        "rate": rate,
        "simulated": said,
        "measured": seen,
        "simulated_over_measured": {
            name: said[name] / seen[name] for name in SHOWN if said[name] and seen[name]
        },
        "seconds_to_simulate": simulating,
        "tick_ms": {rows: 1e3 * value for rows, value in server.costs.ticks.items()},
    }


def closed(asks: Asks, clients: int, seed: int) -> Load:
    """Return a closed loop of a few requests a client."""
    return ClosedLoop(
        clients, lambda number, at: asks.visit(number, at, seed), most=clients * REQUESTS_PER_CLIENT
    )


class SleepingClock(WallClock):
    """The machine's clock."""

    def wait(self, until: float) -> None:
        """Sleep until that time."""
        time.sleep(max(until - self.now(), 0.0))


class WorkClock:
    """Runs while this thread computes; waiting is skipped."""

    def __init__(self) -> None:
        self._skipped = 0.0

    def now(self) -> float:
        """Return seconds of work and of skipped waits."""
        return time.thread_time() + self._skipped

    def wait(self, until: float) -> None:
        """Skip to that time."""
        self._skipped += max(until - self.now(), 0.0)


class Run:
    """A real core, recorded."""

    def __init__(self, engine: ttc.Engine, mode: str, clock: str) -> None:
        self._engine, self._mode = engine, mode
        self._reader = RequestReader(engine.runner, engine.tokenizer, ROOM)
        self._clock = WorkClock() if clock == "thread" else SleepingClock()
        self.recorder = Recorder(BackendDevice(engine.runner, ROOM, self._clock))
        modes = ModeTable(engine.runner, lambda options: FixedPolicy(DRAFT_STEPS), ROOM)
        self._core = Core(self.recorder, modes, LIMITS, CHUNK)
        self.rows: list[Row] = []
        self.span = Span()

    def serve(self, load: Load) -> None:
        """Serve a load."""
        self.span = drive(self._core, load, self._submit, self._clock.wait)

    @property
    def figures(self) -> Figures:
        """What came of it."""
        return figures([self.span])

    def _submit(self, visit: Visit) -> Row:
        self.rows.append(self._core.submit(self._request(visit)))
        return self.rows[-1]

    def _request(self, visit: Visit) -> RowRequest:
        rng = random.Random(visit.seed)
        prompt = [rng.randrange(4, 300) for _ in range(visit.prompt_tokens)]
        options = {"mode": self._mode, "max_new_tokens": visit.answer_tokens, "stop_at_eos": False}
        if self._mode == "lossless":
            options["draft_steps"] = DRAFT_STEPS
        asked = self._reader.read(prompt, None, options, None, time.monotonic, streams=False)
        return asked.rows[0].request


def calibrated(engine: ttc.Engine, runs: Sequence[Run]) -> "Calibrated":
    """Return a simulated server that costs and behaves as these runs did."""
    calls: dict[tuple[str, int, bool], dict[int, list[float]]] = defaultdict(lambda: defaultdict(list))
    ticks: dict[int, list[float]] = defaultdict(list)
    for run in runs:
        for call in run.recorder.calls:
            shape = call.shape
            calls[shape.kind, shape.width, shape.logits > 1][shape.rows].append(call.seconds)
        for rows, seconds in run.recorder.ticks:
            ticks[rows].append(seconds)
    # The first block of an answer and the later ones: they differ.
    blocks = [row.nfe_per_block for run in runs for row in run.rows if row.nfe_per_block]
    first, later = Counter(nfe[0] for nfe in blocks), Counter(n for nfe in blocks for n in nfe[1:])
    accepted = [count for run in runs for row in run.recorder.rows.values() for count in row.accepted]
    # Every draft that was not accepted whole ended at one refusal.
    refused = sum(count < 15 for count in accepted)
    return Calibrated(
        config=engine.config,
        costs=MeasuredCosts({key: medians(rows) for key, rows in calls.items()}, medians(ticks)),
        limits=LIMITS,
        chunk=CHUNK,
        most_tokens=ROOM,
        max_new_tokens=NEW,
        steps=MeasuredSteps((first, later or first)),
        draft_steps=DRAFT_STEPS,
        acceptance=sum(accepted) / max(sum(accepted) + refused, 1),
        gpu=False,
        shares_state=False,
    )


@dataclasses.dataclass(frozen=True, slots=True)
class Calibrated(Server):
    """A server whose costs were measured."""

    costs: MeasuredCosts


def medians(values: dict[int, list[float]]) -> dict[int, float]:
    """Return the median of each."""
    return {key: statistics.median(seconds) for key, seconds in values.items()}


def show(report: dict[str, Any]) -> None:
    """Print the comparison as a table in Markdown."""
    print(f"load {report['load_at_start']} before, {report['load_at_end']} after\n")
    print("| mode | figure | simulated | measured | ratio |\n| --- | --- | --- | --- | --- |")
    for mode, found in report["modes"].items():
        for name, ratio in found["simulated_over_measured"].items():
            simulated, measured = found["simulated"][name], found["measured"][name]
            print(f"| {mode} | {name} | {simulated:.3f} | {measured:.3f} | {ratio:.2f} |")


if __name__ == "__main__":
    main()
