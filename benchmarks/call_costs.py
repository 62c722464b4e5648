"""What a call costs over the length of the context and over the rows that share it, on this CPU.

    python -m benchmarks.call_costs                  both sweeps, printed; written to build/call_costs.json
    python -m benchmarks.call_costs --plot docs/call-costs.svg

The miniature, ONNX Runtime, as it is loaded by default. Sweep over the context: an AR step and a denoise
step (the denoiser and its diffusion step) of one row whose context holds 64 … 4080 tokens, the state as
large as an engine makes it; and 64 tokens in a state for 4096. Sweep over rows: 1 … 16 rows of 64 tokens in
one call. The cases take turns; each figure is the median over the turns. Beside it stands what the cost
model (`ttc.planning.passes`) says: the time of its operations or that of its bytes, whichever is longer at
what this machine reaches, plus a constant, what the first case takes beyond that.
"""

import argparse
import dataclasses
import logging
import shlex
import statistics
import sys
import tempfile
import time
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

import ttc
from ttc.base.files import write_whole
from ttc.bench.identity import load_average, machine, now
from ttc.bench.record_file import record_file, write_record
from ttc.formats.shipped import shipped_checkpoint
from ttc.model.config import ModelConfig
from ttc.planning.experts import Routing
from ttc.planning.passes import context_pass, denoiser_pass, total
from ttc.profiling.costs import measure_limits
from ttc.runtime.interface.backend import Backend, StepInputs
from ttc.runtime.interface.sizes import CPU_SIZES

ROOT = Path(__file__).parents[1]
LENGTHS = (64, 128, 256, 512, 1024, 2048, 4080)
ROWS = (1, 2, 4, 8, 16)
BLOCK, SHORT, CHUNK = 16, 64, 64
Case = tuple[int, int, int]  # rows, tokens in the context, capacity
Calls = Mapping[str, Callable[[], object]]


def main() -> None:
    """Measure, print the tables, write the record and the plot."""
    parser = argparse.ArgumentParser(description="Measure what calls cost.")
    parser.add_argument("--turns", type=int, default=9)
    parser.add_argument("--threads", type=int, help="of a call; by default as the engine chooses")
    parser.add_argument("-o", "--output", type=record_file, default=str(ROOT / "build" / "call_costs.json"))
    parser.add_argument("--plot", type=record_file)
    given = parser.parse_args()
    logging.disable(logging.WARNING)
    report: dict[str, Any] = {
        "command": shlex.join(["python", "-m", "benchmarks.call_costs", *sys.argv[1:]]),
        "date": now(),
        "machine": dataclasses.asdict(machine()),
        "load_at_start": load_average(),
    }
    cases = [(1, length, CPU_SIZES.bucket(length + BLOCK)) for length in LENGTHS]
    cases += [(1, SHORT, 4096)]
    cases += [(rows, SHORT, CPU_SIZES.bucket(SHORT + BLOCK)) for rows in ROWS[1:]]
    with tempfile.TemporaryDirectory() as folder:
        bundle = ttc.export(shipped_checkpoint(), Path(folder) / "model.bundle")
        with ttc.load(bundle, threads=given.threads) as engine:
            limits = report["limits"] = measure_limits()
            calls = {case: calls_of(engine.runner, case) for case in cases}
            measured = in_turns(calls, given.turns)
            report["cases"] = with_prediction(engine.config, measured, limits)
    report["load_at_end"] = load_average()
    tell(report["cases"])
    write_record(given.output, report)
    if given.plot is not None:
        write_whole(given.plot, plot(report["cases"]))
    print(f"written to {given.output}")


def calls_of(backend: Backend, case: Case) -> Calls:
    """Return an AR step and a denoise step on a state that holds the case's tokens."""
    rows, length, capacity = case
    draw = np.random.default_rng(7)

    def full(value: int, *more: int) -> Any:
        return np.full((rows, *more), value, np.int32)

    def ids(tokens: int) -> Any:
        return draw.integers(4, 300, (rows, tokens)).astype(np.int32)

    state = backend.new_state(rows, capacity)
    for start in range(0, length, CHUNK):
        tokens = min(CHUNK, length - start)
        backend.context(state, ids(tokens), full(tokens), full(0, 1))
    block, token = ids(BLOCK), ids(1)
    block[:, BLOCK // 4 :] = backend.config.mask_token_id
    zeros = np.zeros(rows, np.float32)
    inputs = StepInputs(
        block, zeros + np.float32(0.9), zeros, zeros.astype(np.int64), state.lengths, full(0), full(BLOCK)
    )

    def ar_step() -> None:
        backend.fetch(backend.context(state, token, full(1), full(0, 1)).logits)
        state.lengths[:] = length  # the next call is the same one

    return {
        "AR step": ar_step,
        "denoise step": lambda: backend.denoise_step(state, zeros + np.float32(0.75), inputs),
    }


def in_turns(calls: Mapping[Case, Calls], turns: int) -> dict[Case, dict[str, float]]:
    """Return median seconds of every call; a turn times each a few times, and the first is not counted."""
    times: dict[Case, dict[str, list[float]]] = {
        case: {name: [] for name in own} for case, own in calls.items()
    }
    for turn in range(turns + 1):
        for case, own in calls.items():
            for name, call in own.items():
                call()
                begin = time.perf_counter()
                for _ in range(4):
                    call()
                if turn:
                    times[case][name].append((time.perf_counter() - begin) / 4)
    return {
        case: {name: statistics.median(each) for name, each in own.items()} for case, own in times.items()
    }


def with_prediction(
    config: ModelConfig, measured: Mapping[Case, Mapping[str, float]], limits: Mapping[str, float]
) -> list[dict[str, Any]]:
    """Return a record per case: measured and predicted milliseconds."""
    least = {case: at_least(config, case, limits) for case in measured}
    first = next(iter(measured))
    constant = {name: measured[first][name] - least[first][name] for name in measured[first]}
    return [
        {
            "rows": case[0],
            "context": case[1],
            "capacity": case[2],
            "ms": {name: 1e3 * seconds for name, seconds in own.items()},
            "predicted_ms": {name: 1e3 * (least[case][name] + constant[name]) for name in own},
        }
        for case, own in measured.items()
    ]


def at_least(config: ModelConfig, case: Case, limits: Mapping[str, float]) -> dict[str, float]:
    """Return the least seconds of both calls, every expert being computed for every token."""
    rows, length, _ = case
    routing = Routing(dense=True)
    costs = {
        "AR step": total(context_pass(config, rows, 1, length, 4, routing)),
        "denoise step": total(denoiser_pass(config, rows, BLOCK, length, 4, routing)),
    }
    return {
        name: max(cost.flops / limits["flops_per_second"], cost.bytes / limits["bytes_per_second"])
        for name, cost in costs.items()
    }


def tell(cases: Sequence[Mapping[str, Any]]) -> None:
    """Print one line per case."""
    print("rows  context  capacity      AR step ms, predicted      denoise step ms, predicted")
    for case in cases:
        ar, denoise = (
            f"{case['ms'][name]:14.3f}{case['predicted_ms'][name]:11.3f}"
            for name in ("AR step", "denoise step")
        )
        print(f"{case['rows']:4}{case['context']:9}{case['capacity']:10}{ar}{denoise:>30}")


def plot(cases: Sequence[Mapping[str, Any]]) -> str:
    """Return a picture as SVG: milliseconds over the context and over the rows, measured and predicted."""
    by_length = [c for c in cases if c["rows"] == 1 and (c["context"], c["capacity"]) != (SHORT, 4096)]
    by_rows = [c for c in cases if c["context"] == SHORT and c["capacity"] != 4096]
    parts = [
        panel(by_length, "context", "tokens of context", 0),
        panel(by_rows, "rows", "rows of a call", 380),
    ]
    return (
        '<svg xmlns="http://www.w3.org/2000/svg" width="760" height="300" font-family="sans-serif" '
        f'font-size="12"><rect width="100%" height="100%" fill="white"/>{"".join(parts)}</svg>\n'
    )


def panel(cases: Sequence[Mapping[str, Any]], key: str, label: str, left: int) -> str:
    """Return one diagram, both axes linear from 0."""
    x0, y0, width, height = left + 50, 250, 300, 200
    widest = max(case[key] for case in cases)
    highest = max(max(*case["ms"].values(), *case["predicted_ms"].values()) for case in cases)
    parts = [
        f'<path d="M{x0} {y0 - height}V{y0}H{x0 + width}" fill="none" stroke="#888"/>',
        f'<text x="{x0 + width}" y="{y0 + 32}" text-anchor="end">{label}</text>',
        f'<text x="{x0}" y="{y0 - height - 10}">ms</text>',
    ]
    for share in (0.5, 1.0):
        x, y = x0 + share * width, y0 - share * height
        parts.append(f'<text x="{x:.0f}" y="{y0 + 16}" text-anchor="middle">{share * widest:.0f}</text>')
        parts.append(f'<text x="{x0 - 6}" y="{y + 4:.0f}" text-anchor="end">{share * highest:.2g}</text>')
    for name, colour in (("AR step", "#4c78a8"), ("denoise step", "#f58518")):
        for kind, dash in (("ms", ""), ("predicted_ms", ' stroke-dasharray="4 3"')):
            points = " ".join(
                f"{x0 + width * case[key] / widest:.1f},{y0 - height * case[kind][name] / highest:.1f}"
                for case in cases
            )
            parts.append(f'<polyline points="{points}" fill="none" stroke="{colour}"{dash}/>')
        last = cases[-1]["ms"][name]
        parts.append(
            f'<text x="{x0 + width - 4}" y="{y0 - height * last / highest - 6:.1f}" fill="{colour}" '
            f'text-anchor="end">{name}</text>'
        )
    parts.append(f'<text x="{x0}" y="20">solid: measured, dashed: the cost model</text>')
    return "".join(parts)


if __name__ == "__main__":
    main()
