"""The core: rows that come and go against each request alone, and what the loop itself costs. On this CPU.

    python -m benchmarks.core                            1000 requests; written to build/core.json
    python -m benchmarks.core --requests 100             a quick look

The miniature, ONNX Runtime, one thread. In one run:

- *requests*: random requests (mode, threshold, steps, temperature, seed, choice of `n`, length) arrive at
  random ticks at a core of 16 rows. Their tokens, and in diffusion their NFE, are compared with those of each
  request alone.
- *static batch*: 16 ragged rows given at once. Denoiser rows evaluated, against a loop in which every row of
  the batch is evaluated until the slowest has filled its block.
- *overhead*: what of a tick passes outside the backend, at 1 row and at 16.
- *join*: 80 rows of capacity 4096 that join one after another, and copies of rows while they did.
- *prefix*: a prompt of 1024 shared tokens, up to its first block, read and from the prefix cache.
- *memory*: resident bytes after 1000 requests and after all (`--memory-requests`).
"""

import argparse
import dataclasses
import json
import logging
import random
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
from ttc.base.names import MODES
from ttc.bench.identity import load_average, machine, now
from ttc.bench.record_file import record_file, write_record
from ttc.formats.shipped import shipped_checkpoint
from ttc.runtime.decoding.core import Core
from ttc.runtime.decoding.device import BackendDevice
from ttc.runtime.decoding.modes.table import ModeTable
from ttc.runtime.decoding.plan import CoreLimits
from ttc.runtime.decoding.request import RowRequest
from ttc.runtime.decoding.rows import Row
from ttc.runtime.decoding.seats import Seats
from ttc.runtime.decoding.speculative.policy import DraftPolicies
from ttc.runtime.requests import RequestReader

ROWS, ROOM, CHUNK = 16, 4096, 128
# Diffusion counts twice.
MIX = ("diffusion", *MODES)


def main() -> None:
    """Measure all, print a line each, write them."""
    parser = argparse.ArgumentParser(description="Measure the core.")
    parser.add_argument("--requests", type=int, default=1000)
    parser.add_argument("--memory-requests", type=int, default=10_000)
    parser.add_argument("-o", "--output", type=record_file, default="build/core.json")
    args = parser.parse_args()
    logging.disable(logging.WARNING)  # of top_k at temperature 0, with every tenth request
    report: dict[str, Any] = {
        "command": shlex.join(["python", "-m", "benchmarks.core", *sys.argv[1:]]),
        "date": now(),
        "machine": dataclasses.asdict(machine()),
        "load_at_start": load_average(),
    }
    with tempfile.TemporaryDirectory() as folder:
        bundle = ttc.export(shipped_checkpoint(), Path(folder) / "model.bundle")
        with ttc.load(bundle) as engine:
            stages: dict[str, Callable[[], Any]] = {
                "requests": lambda: together_and_alone(engine, args.requests),
                "static_batch": lambda: static_batch(engine),
                "overhead": lambda: [overhead(engine, rows) for rows in (1, ROWS)],
                "join": lambda: joining(engine),
                "memory": lambda: memory(engine, args.memory_requests),
            }
            for name, stage in stages.items():
                report[name] = stage()
                print(f"{name}: {json.dumps(report[name])}", flush=True)
        report["prefix"] = prefix(bundle)
        print(f"prefix: {json.dumps(report['prefix'])}", flush=True)
    write_record(args.output, report)
    print(f"written to {args.output}")


def make_core(engine: ttc.Engine) -> Core:
    """Return a core of 16 rows beside the engine's own."""
    modes = ModeTable(engine.runner, DraftPolicies(engine.runner, ROOM).policy, ROOM)
    return Core(BackendDevice(engine.runner, ROOM), modes, CoreLimits(ROWS, None, 512), CHUNK)


def read(engine: ttc.Engine, prompt: Sequence[int], options: Mapping[str, Any]) -> RowRequest:
    """Return one checked request."""
    reader = RequestReader(engine.runner, engine.tokenizer, ROOM)
    return reader.read(list(prompt), None, dict(options), None, time.monotonic, streams=False).rows[0].request


def generated(engine: ttc.Engine, prompt: Sequence[int], options: Mapping[str, Any]) -> ttc.Result:
    """Return the result of one request alone."""
    result = engine.generate(list(prompt), **options)
    assert isinstance(result, ttc.Result), "one prompt, one result"
    return result


def random_request(rng: random.Random, vocab_size: int) -> tuple[list[int], dict[str, Any]]:
    """Return a prompt and options that go together."""
    mode, new_tokens = rng.choice(MIX), rng.randint(1, 24)
    options: dict[str, Any] = {
        "mode": mode,
        "max_new_tokens": new_tokens,
        "temperature": rng.choice([0.0, 0.0, 0.7, 1.0]),
        "seed": rng.randrange(2**40),
        "choice": rng.choice([0, 0, 1, 2]),
        "steps": rng.randint(1, 20),
        "threshold": rng.choice([0.5, 0.7, 0.9, 1.0]),
        "stop_at_eos": rng.random() < 0.8,
    }
    if mode == "diffusion":
        options["finish_early"] = rng.random() < 0.2
    else:
        options |= {"top_k": rng.randint(1, 20)} if rng.random() < 0.3 else {}
        options |= {"top_p": 0.8} if rng.random() < 0.3 else {}
    return [rng.randrange(4, vocab_size - 16) for _ in range(rng.randint(1, 80))], options


def together_and_alone(engine: ttc.Engine, count: int) -> dict[str, Any]:
    """Random requests that arrive at random ticks, against each alone."""
    rng = random.Random(5)
    asked = [random_request(rng, engine.config.vocab_size) for _ in range(count)]
    core, waiting, rows = make_core(engine), list(asked), list[Row]()
    started = time.perf_counter()
    while waiting or not core.idle:
        for _ in range(min(rng.choice([0, 0, 1, 2, 3]), len(waiting))):
            rows.append(core.submit(read(engine, *waiting.pop(0))))
        core.tick()
    together = time.perf_counter() - started
    started = time.perf_counter()
    alone = [generated(engine, *one) for one in asked]
    seconds = time.perf_counter() - started
    pairs = list(zip(rows, alone, strict=True))
    filled = [(row, one) for row, one in pairs if one.stats.mode == "diffusion"]
    return {
        "requests": count,
        "rows": ROWS,
        "with_other_tokens": sum(tuple(row.tokens) != one.token_ids for row, one in pairs),
        "with_other_ends": sum(row.finish_reason != one.finish_reason for row, one in pairs),
        "diffusion_requests": len(filled),
        "with_other_nfe": sum(tuple(row.nfe_per_block) != one.stats.nfe_per_block for row, one in filled),
        "speedup_over_alone": seconds / together,
    }


def static_batch(engine: ttc.Engine) -> dict[str, Any]:
    """16 ragged rows at once: denoiser rows evaluated, against a loop that waits for the slowest row."""
    rng = random.Random(6)
    prompts = [
        [rng.randrange(4, engine.config.vocab_size - 16) for _ in range(rng.randint(4, 60))]
        for _ in range(ROWS)
    ]
    before = engine.core.counts.denoiser_rows
    results = engine.generate(prompts, max_new_tokens=96, stop_at_eos=False, threshold=0.9)
    assert isinstance(results, list)
    evaluated = engine.core.counts.denoiser_rows - before
    blocks = zip(*(result.stats.nfe_per_block for result in results), strict=True)
    lockstep = sum(ROWS * max(block) for block in blocks)
    return {"rows": ROWS, "denoiser_rows": evaluated, "in_lockstep": lockstep, "ratio": evaluated / lockstep}


def overhead(engine: ttc.Engine, rows: int) -> dict[str, Any]:
    """Milliseconds of a tick, and of them outside the backend: medians over AR ticks."""
    core = make_core(engine)
    for i in range(rows):
        core.submit(read(engine, [5 + i, 6, 7], {"mode": "ar", "max_new_tokens": 210, "stop_at_eos": False}))
    ticks, outside = [], []
    for _ in range(200):
        inside, started = core.counts.seconds, time.perf_counter()
        core.tick()
        ticks.append(time.perf_counter() - started)
        outside.append(ticks[-1] - (core.counts.seconds - inside))
    tick_ms, outside_ms = 1e3 * statistics.median(ticks), 1e3 * statistics.median(outside)
    return {"rows": rows, "tick_ms": tick_ms, "outside_backend_ms": outside_ms, "share": outside_ms / tick_ms}


def joining(engine: ttc.Engine) -> dict[str, Any]:
    """80 rows join at capacity 4096, one after another."""
    seats, times, copied, name = Seats(engine.runner, ROOM), list[float](), 0, "ssm_state.0"
    for i in range(80):
        before = seats.state(ROOM).tensors[name] if i else None
        started = time.perf_counter()
        seats.join(ROOM)
        times.append(time.perf_counter() - started)
        # A state that gets other tensors has copied everybody.
        copied += i if before is not None and seats.state(ROOM).tensors[name] is not before else 0
    copied += seats.moves
    seats.close()
    return {
        "rows": len(times),
        "capacity": ROOM,
        "median_ms": 1e3 * statistics.median(times),
        "most_ms": 1e3 * max(times),
        "rows_copied": copied,
    }


def memory(engine: ttc.Engine, count: int) -> dict[str, Any]:
    """Resident megabytes after 1000 requests and after all of them."""
    rng, marks = random.Random(7), {}
    for i in range(1, count + 1):
        prompt = [rng.randrange(4, 300) for _ in range(rng.randint(1, 20))]
        engine.generate(prompt, mode="ar" if i % 2 else "diffusion", max_new_tokens=2, steps=2, seed=i)
        if i in (1000, count):
            marks[i] = _resident_mb()
    return {"requests": count, "resident_mb": marks, "growth_mb": marks[count] - marks[min(1000, count)]}


def _resident_mb() -> float:
    status = Path("/proc/self/status").read_text(encoding="ascii")
    return int(status.split("VmRSS:")[1].split()[0]) / 1024


def prefix(bundle: Path) -> dict[str, Any]:
    """Seconds to the first block of two prompts that share 1024 tokens; the same with nothing shared."""
    shared = np.random.default_rng(8).integers(4, 300, 1024).tolist()
    options: dict[str, Any] = {"max_new_tokens": 4, "steps": 1}
    with ttc.load(bundle, prefix_cache_bytes=10**9) as engine, ttc.load(bundle) as plain:
        engine.generate(shared[::-1], **options)  # what comes first pays for memory and threads
        results = [generated(engine, [*shared, *own], options) for own in ([5, 6], [7, 8])]
        expected = [generated(plain, [*shared, *own], options) for own in ([5, 6], [7, 8])]
    miss, hit = (result.stats.seconds for result in results)
    return {
        "shared_tokens": len(shared),
        "cached_prompt_tokens": [result.stats.cached_prompt_tokens for result in results],
        "hit_over_miss": hit / miss,
        "same_tokens": [a.token_ids == b.token_ids for a, b in zip(results, expected, strict=True)],
    }


if __name__ == "__main__":
    main()
