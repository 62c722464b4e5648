"""The service under load, each figure by itself. On this CPU; the miniature, ONNX Runtime.

    python -m benchmarks.serving                         all figures; written to build/serving.json
    python -m benchmarks.serving --only throughput fair  some of them
    python -m benchmarks.serving --quick                 a tenth of the load

`ttc serve` runs as a process of its own, the clients in this one. In one run:

- *identity*: random requests at 16 clients against `Engine.generate` alone: tokens, and NFE in diffusion.
- *throughput*: tokens/s at 16 clients, in process and over HTTP, over those of static batches of 16.
- *latency*: time to the first block and to the end at 16 clients; what a prompt of 2000 tokens does to the
  blocks of the others.
- *hostile*: clients that drop, send halves and nonsense, or do not read.
- *connections*: 10,000 that are open and say nothing.
- *memory*: resident bytes of the service after a tenth of the requests and after all of them.
- *overload*: 64 clients on a queue of 16.
- *prefix*: a second prompt with the same first 1024 tokens.
- *fair*: one key sends 100 long requests, another a few short ones.
"""

import argparse
import asyncio
import dataclasses
import itertools
import json
import logging
import random
import shlex
import statistics
import sys
import tempfile
import time
from collections.abc import Awaitable, Callable, Sequence
from operator import truediv
from pathlib import Path
from typing import Any

import ttc
from benchmarks.core import random_request
from benchmarks.serving_client import Answer, served
from benchmarks.serving_limits import FREE, ROWS, Setting, connections, fair, hostile, overload, spread
from benchmarks.serving_load import PATH, closed_loop, open_loop, percentile
from ttc.base.names import MODES
from ttc.bench.identity import load_average, machine, now
from ttc.bench.record_file import record_file, write_record
from ttc.formats.shipped import shipped_checkpoint

TURNS = 5


def main() -> None:
    """Measure, print a line each, write all."""
    parser = argparse.ArgumentParser(description="Measure the service.")
    parser.add_argument("--only", nargs="*", choices=FIGURES, default=list(FIGURES))
    parser.add_argument("--quick", action="store_true")
    parser.add_argument("--bundle", type=Path, help="The miniature's bundle.  [default: exported first]")
    parser.add_argument("-o", "--output", type=record_file, default="build/serving.json")
    args = parser.parse_args()
    logging.disable(logging.WARNING)
    report: dict[str, Any] = {
        "command": shlex.join(["python", "-m", "benchmarks.serving", *sys.argv[1:]]),
        "date": now(),
        "machine": dataclasses.asdict(machine()),
        "load_at_start": load_average(),
    }
    with tempfile.TemporaryDirectory() as folder:
        bundle = args.bundle or ttc.export(shipped_checkpoint(), Path(folder) / "model.bundle")
        with ttc.load(bundle) as engine:
            setting = Setting(bundle, engine, 0.1 if args.quick else 1.0)
            for name in args.only:
                started = time.perf_counter()
                report[name] = asyncio.run(FIGURES[name](setting))
                report[name]["took_seconds"] = round(time.perf_counter() - started, 1)
                print(f"{name}: {json.dumps(report[name])}", flush=True)
    write_record(args.output, report)
    print(f"written to {args.output}")


async def identity(setting: Setting) -> dict[str, Any]:
    """Random requests, n and streams among them, against each alone."""
    rng = random.Random(11)
    asked = []
    for _ in range(setting.count(1000)):
        prompt, options = random_request(rng, setting.engine.config.vocab_size)
        asked.append((prompt, {**options, "choice": 0, "n": rng.choice([1, 1, 1, 2, 3])}, rng.random() < 0.5))
    bodies = [_body(prompt, options, stream) for prompt, options, stream in asked]
    with served(setting.bundle, "--max-rows", ROWS) as service:
        answers, seconds = await closed_loop([service.link() for _ in range(ROWS)], bodies)
    other_tokens = other_nfe = texts = 0
    for (prompt, options, _), answer in zip(asked, answers, strict=True):
        assert answer.status == 200, answer.body
        alone = setting.engine.generate([prompt], **options)
        assert isinstance(alone, list)
        tokens, usage = _tokens(answer)
        texts += len(alone)
        other_tokens += sum(tokens[i] != list(one.token_ids) for i, one in enumerate(alone))
        if options["mode"] == "diffusion":
            other_nfe += usage["ttc"]["nfe"] != sum(one.stats.nfe for one in alone)
    return {
        "requests": len(asked),
        "texts": texts,
        "clients": ROWS,
        "texts_with_other_tokens": other_tokens,
        "diffusion_requests_with_other_nfe": other_nfe,
        "seconds": seconds,
    }


def _body(prompt: Sequence[int], options: dict[str, Any], stream: bool) -> dict[str, Any]:
    names = {"max_new_tokens": "max_tokens"}
    body = {names.get(name, name): value for name, value in options.items()}
    body |= {"prompt": list(prompt), "ignore_eos": not options["stop_at_eos"], "return_token_ids": True}
    del body["stop_at_eos"], body["choice"]
    return body | ({"stream": True, "stream_options": {"include_usage": True}} if stream else {})


def _tokens(answer: Answer) -> tuple[dict[int, list[int]], dict[str, Any]]:
    """Return the token ids of every choice, whole or streamed, and the usage."""
    chunks = answer.body
    if isinstance(chunks, dict):
        chunks = [chunks]
    else:
        assert chunks.pop() == "[DONE]"
    tokens: dict[int, list[int]] = {}
    for choice in (choice for chunk in chunks for choice in chunk["choices"]):
        tokens.setdefault(choice["index"], []).extend(choice["token_ids"])
    return tokens, chunks[-1]["usage"]


async def throughput(setting: Setting) -> dict[str, Any]:
    """Tokens/s in process and over HTTP, over static batches of 16; the three in turns, every second turn in
    the opposite order.

    Beside wall time the CPU time of whoever computes, which neighbours of the machine disturb less; and how
    long calls of the backend took, which tells a service's overhead from calls that are less well filled.
    """
    rng, new = random.Random(12), 64
    prompts = [[rng.randrange(4, 300) for _ in range(rng.randint(8, 60))] for _ in range(setting.count(128))]
    bodies = [{"prompt": prompt, "max_tokens": new, **FREE} for prompt in prompts]
    wall: dict[str, list[float]] = {"static": [], "in_process": [], "http": []}
    cpu: dict[str, list[float]] = {name: [] for name in wall}
    calls: dict[str, list[float]] = {"static": [], "in_process": []}
    shared = ttc.AsyncEngine.load(setting.bundle, max_rows=ROWS, max_queued=len(prompts))
    with served(setting.bundle, "--max-rows", ROWS, "--prefix-cache-bytes", 0) as service:
        links = [service.link() for _ in range(ROWS)]
        async with shared as engine:

            async def over_http() -> None:
                answers, _ = await closed_loop(links, bodies)
                assert all(answer.body["usage"]["completion_tokens"] == new for answer in answers)

            kinds: list[tuple[str, Callable[[], Awaitable[None]], Callable[[], float]]] = [
                ("static", lambda: _static(setting.engine, prompts, new), time.process_time),
                ("in_process", lambda: _in_process(engine, prompts, new), time.process_time),
                ("http", over_http, service.cpu_seconds),
            ]
            inside = {"static": setting.engine.core, "in_process": engine.engine.core}
            for turn in range(TURNS + 1):
                for name, work, clock in kinds if turn % 2 else reversed(kinds):
                    in_calls = inside[name].counts.seconds if name in inside else 0.0
                    started, computed = time.perf_counter(), clock()
                    await work()
                    if turn:  # the first one warms up
                        wall[name].append(time.perf_counter() - started)
                        cpu[name].append(clock() - computed)
                        if name in inside:
                            calls[name].append(inside[name].counts.seconds - in_calls)
    return {
        "requests": len(prompts),
        "new_tokens": new,
        **{f"{name}_over_static": _ratios(wall["static"], wall[name]) for name in ("in_process", "http")},
        "cpu_time": {
            f"{name}_over_static": _ratios(cpu["static"], cpu[name]) for name in ("in_process", "http")
        },
        "seconds_in_calls": {
            "in_process_over_static": _ratios(calls["static"], calls["in_process"]),
            "share_of_wall": {
                name: statistics.median(map(truediv, seconds, wall[name])) for name, seconds in calls.items()
            },
        },
        "static_tokens_per_second": len(prompts) * new / statistics.median(wall["static"]),
    }


def _ratios(static: Sequence[float], other: Sequence[float]) -> dict[str, float]:
    """Return by how much others are faster than static batches, turn by turn."""
    return spread([one / each for one, each in zip(static, other, strict=True)])


async def _static(engine: ttc.Engine, prompts: Sequence[list[int]], new: int) -> None:
    for first in range(0, len(prompts), ROWS):
        engine.generate(prompts[first : first + ROWS], max_new_tokens=new, stop_at_eos=False)


async def _in_process(engine: ttc.AsyncEngine, prompts: Sequence[list[int]], new: int) -> None:
    todo = iter(prompts)

    async def client() -> None:
        for prompt in todo:
            await engine.generate(prompt, max_new_tokens=new, stop_at_eos=False)

    await asyncio.gather(*(client() for _ in range(ROWS)))


async def latency(setting: Setting) -> dict[str, Any]:
    """Time to first block and to the end; and gaps between blocks with and without a long prompt."""
    rng = random.Random(13)
    bodies = [
        {"prompt": [rng.randrange(4, 300) for _ in range(30)], "max_tokens": 96, "stream": True, **FREE}
        for _ in range(setting.count(128))
    ]
    with served(setting.bundle, "--max-rows", ROWS, "--prefix-cache-bytes", 0) as service:
        links = [service.link() for _ in range(ROWS)]
        await closed_loop(links, bodies[:ROWS])
        answers, _ = await closed_loop(links, bodies)
        first = percentile([answer.event_seconds[0] for answer in answers], 0.95)
        whole = percentile([answer.seconds for answer in answers], 0.95)
        arrivals = await open_loop(service.link, bodies[: setting.count(64)], 4.0, rng)
        gaps = {}
        for name, extra in (("without", 0), ("with", 4)):
            long = [{"prompt": [7 + i] * 2000, "max_tokens": 1} for i in range(extra)]
            # One client of the sixteen sends the long prompts, one after another.
            (others, _), _ = await asyncio.gather(
                closed_loop(links[1:], bodies), closed_loop(links[:1], long)
            )
            gaps[name] = percentile([gap for answer in others for gap in _gaps(answer)], 0.95)
    return {
        "first_block_p95_ms": 1e3 * first,
        "end_p95_ms": 1e3 * whole,
        "first_block_over_end": first / whole,
        "open_loop_4_per_second_end_p95_ms": 1e3 * percentile([a.seconds for a in arrivals], 0.95),
        "block_gap_p95_ms": {name: 1e3 * gap for name, gap in gaps.items()},
        "long_prompt_slows_blocks_by": gaps["with"] / gaps["without"],
    }


def _gaps(answer: Answer) -> list[float]:
    times = answer.event_seconds[:-1]  # [DONE] is no block
    return [later - earlier for earlier, later in itertools.pairwise(times)]


async def memory(setting: Setting) -> dict[str, Any]:
    """Resident megabytes of the service."""
    rng, marks = random.Random(15), []
    with served(setting.bundle, "--max-rows", ROWS, "--prefix-cache-bytes", 1 << 20) as service:
        links, before = [service.link() for _ in range(ROWS)], await service.metrics()
        for part in (0.1, 0.9):
            bodies = [
                {
                    "prompt": [rng.randrange(4, 300) for _ in range(rng.randint(1, 20))],
                    "mode": rng.choice(MODES),
                    "max_tokens": 2,
                    "steps": 2,
                    "stream": rng.random() < 0.3,
                }
                for _ in range(int(setting.count(10_000) * part))
            ]
            await closed_loop(links, bodies)
            marks.append(service.resident_mb())
        after = await service.metrics()
    return {
        "requests": setting.count(10_000),
        "resident_mb": marks,
        "growth_mb": marks[1] - marks[0],
        "state_bytes": [before["ttc_state_bytes"], after["ttc_state_bytes"]],
    }


async def prefix(setting: Setting) -> dict[str, Any]:
    """Two prompts with 1024 tokens in common, then one step each."""
    rng = random.Random(17)
    options = {"max_tokens": 4, "steps": 1, **FREE}
    ratios, same = [], True
    with served(setting.bundle) as service:
        link = service.link()
        for _ in range(5):
            shared = [rng.randrange(4, 300) for _ in range(1024)]
            pair = [await link.post(PATH, {"prompt": [*shared, *own], **options}) for own in ([5, 6], [7, 8])]
            ratios.append(pair[1].seconds / pair[0].seconds)
            for own, answer in zip(([5, 6], [7, 8]), pair, strict=True):
                alone = setting.engine.generate([*shared, *own], max_new_tokens=4, steps=1, stop_at_eos=False)
                assert isinstance(alone, ttc.Result)
                same &= answer.body["choices"][0]["token_ids"] == list(alone.token_ids)
        hits = (await service.metrics())["ttc_prefix_cache_hits_total"]
    return {"second_over_first": spread(ratios), "same_tokens": same, "hits": hits}


FIGURES: dict[str, Callable[[Setting], Awaitable[dict[str, Any]]]] = {
    "identity": identity,
    "throughput": throughput,
    "latency": latency,
    "hostile": hostile,
    "connections": connections,
    "memory": memory,
    "overload": overload,
    "prefix": prefix,
    "fair": fair,
}

if __name__ == "__main__":
    main()
