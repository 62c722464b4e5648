"""Replicas on Ray Serve: one is killed under load; too much load; more of them where there is more to do. On
this CPU; the miniature.

    python -m benchmarks.serving_ray --bundle mini.bundle -o build/serving_ray.json
    python -m benchmarks.serving_ray --bundle mini.bundle --only scaling

Needs `pip install 'twotower-compiler[ray]'`, best in an environment of its own.

*killed*: clients ask one request after another, half of them as streams, all with a seed; some seconds later
one of two replicas' processes gets SIGKILL. Compared with `Engine.generate` for each request alone:

- *whole answers*: how many are 200 with the same tokens, of all that were asked for;
- *streams*: how many ended in `[DONE]`, and how many of those were not complete: none may be;
- *seconds until two replicas run again*;
- *prefix*: requests that begin alike, and how many found their beginning in the cache of their replica.

*overload*: 48 clients on two replicas of two rows, where two requests may wait at each and two before them;
what they were told. *scaling*: one replica, a second one allowed; seconds until it runs under the load of 12
clients, and until it has gone after the load.
"""

import argparse
import asyncio
import contextlib
import dataclasses
import json
import os
import random
import shlex
import signal
import socket
import sys
import time
from collections import Counter
from collections.abc import Awaitable, Callable
from pathlib import Path
from typing import Any

import ray
from ray import serve

import ttc
from benchmarks.serving_client import Answer, Link
from benchmarks.serving_load import PATH, percentile
from ttc.bench.identity import load_average, machine, now
from ttc.bench.record_file import record_file, write_record
from ttc.serving.adapters.ray import Cluster, build
from ttc.serving.service.settings import Settings

CLIENTS, NEW, ROWS = 12, 48, 8


def main() -> None:
    """Measure, print, write."""
    parser = argparse.ArgumentParser(description="Replicas on Ray Serve.")
    parser.add_argument("--bundle", type=Path, required=True, help="The miniature's.")
    parser.add_argument("--only", nargs="*", choices=FIGURES, default=list(FIGURES))
    parser.add_argument("--seconds", type=float, default=30.0, help="of load; a kill comes after a third")
    parser.add_argument("-o", "--output", type=record_file, default="build/serving_ray.json")
    args = parser.parse_args()
    report: dict[str, Any] = {
        "command": shlex.join(["python", "-m", "benchmarks.serving_ray", *sys.argv[1:]]),
        "date": now(),
        "machine": dataclasses.asdict(machine()),
        "ray": ray.__version__,
        "load_at_start": load_average(),
    }
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = int(free.getsockname()[1])
    ray.init(num_cpus=2, include_dashboard=False, log_to_driver=False)
    try:
        serve.start(http_options={"host": "127.0.0.1", "port": port})
        with ttc.load(args.bundle) as engine:
            for name in args.only:
                settings, cluster, measure = FIGURES[name]
                serve.run(build(dataclasses.replace(settings, bundle=str(args.bundle)), cluster))
                report[name] = asyncio.run(measure(engine, port, args.seconds))
                serve.delete("default")
                print(f"{name}: {json.dumps(report[name])}", flush=True)
    finally:
        serve.shutdown()
        ray.shutdown()
    write_record(args.output, report)


async def killed(engine: ttc.Engine, port: int, seconds: float) -> dict[str, Any]:
    """Load, kill, compare."""
    started = time.perf_counter()
    asked: list[tuple[dict[str, Any], Answer | str]] = []
    loads = [client(port, number, started + seconds, asked) for number in range(CLIENTS)]
    killing = asyncio.create_task(kill_one(seconds / 3))
    await asyncio.gather(*loads)
    whole = [(body, answer) for body, answer in asked if not body["stream"]]
    streams = [(body, answer) for body, answer in asked if body["stream"]]
    same = sum(answered(answer) == alone(engine, body) for body, answer in whole)
    done = [(body, answer) for body, answer in streams if is_done(answer)]
    times = [answer.seconds for _, answer in whole if isinstance(answer, Answer)]
    return {
        "clients": CLIENTS,
        "whole_answers": len(whole),
        "whole_answers_that_are_right": same,
        "whole_answers_that_failed": [str(a)[:200] for _, a in whole if answered(a) is None],
        "whole_answer_p95_seconds": percentile(times, 0.95),
        "streams": len(streams),
        "streams_with_done": len(done),
        "streams_with_done_that_are_not_complete": sum(
            answered(answer) != alone(engine, body) for body, answer in done
        ),
        "streams_that_ended_in_an_error": len(streams) - len(done),
        "seconds_until_two_replicas_run_again": await killing,
        "prefix": await prefixes(port),
    }


async def client(
    port: int,
    number: int,
    until: float,
    asked: list[tuple[dict[str, Any], Answer | str]],
    *,
    waits: bool = False,
) -> None:
    """Ask until the time is over; wait where that is what an answer says."""
    rng, link = random.Random(number), Link("127.0.0.1", port)
    while time.perf_counter() < until:
        body = {
            "prompt": [rng.randrange(4, 300) for _ in range(rng.randint(4, 60))],
            "max_tokens": NEW,
            "temperature": 0.8,
            "seed": rng.randrange(2**31),
            "ignore_eos": True,
            "return_token_ids": True,
            "stream": number % 2 == 1,
        }
        try:
            answer = await asyncio.wait_for(link.post(PATH, body), 60)
            asked.append((body, answer))
            if waits and answer.status == 429:
                await asyncio.sleep(float(answer.headers.get("retry-after", 1)) * (0.5 + rng.random()))
        except (OSError, EOFError, ValueError, TimeoutError) as fault:
            asked.append((body, f"{type(fault).__name__}: {fault}"))
            link.close()
    link.close()


def answered(answer: Answer | str) -> list[int] | None:
    """Return the token ids of an answer that is whole; None of any other."""
    if isinstance(answer, str) or answer.status != 200:
        return None
    if isinstance(answer.body, dict):
        tokens: list[int] = answer.body["choices"][0]["token_ids"]
        return tokens
    chunks = [chunk for chunk in answer.body if isinstance(chunk, dict) and "choices" in chunk]
    return [token for chunk in chunks for choice in chunk["choices"] for token in choice["token_ids"]]


def is_done(answer: Answer | str) -> bool:
    """Return whether a stream says that it is complete."""
    return isinstance(answer, Answer) and answer.status == 200 and "[DONE]" in answer.body


def alone(engine: ttc.Engine, body: dict[str, Any]) -> list[int]:
    """Return what the request gives by itself."""
    options = {"max_new_tokens": NEW, "temperature": body["temperature"], "seed": body["seed"]}
    result = engine.generate(body["prompt"], stop_at_eos=False, **options)
    assert isinstance(result, ttc.Result)
    return list(result.token_ids)


async def kill_one(after: float) -> float:
    """Kill a replica; return in how many seconds two run again."""
    await asyncio.sleep(after)
    before = replica_processes()
    assert len(before) == 2, f"two replicas are to run, not {before}"
    os.kill(before[0], signal.SIGKILL)
    started = time.perf_counter()
    await asyncio.sleep(0.2)
    while running() != 2 or len(set(replica_processes()) - {before[0]}) != 2:
        assert time.perf_counter() - started < 60, f"two replicas do not run: {running()}"
        await asyncio.sleep(0.05)
    return time.perf_counter() - started


def running() -> int:
    """Return how many replicas run."""
    states = serve.status().applications["default"].deployments["replica"].replica_states
    return {str(getattr(state, "value", state)): count for state, count in states.items()}.get("RUNNING", 0)


def replica_processes() -> list[int]:
    """Return the processes of the replicas."""
    found = []
    for process in Path("/proc").iterdir():
        with contextlib.suppress(OSError):
            if process.name.isdigit():
                title = (process / "cmdline").read_bytes()
                if title.startswith(b"ray::ServeReplica:default:replica"):
                    found.append(int(process.name))
    return sorted(found)


async def prefixes(port: int) -> dict[str, int]:
    """Eight requests of each of four beginnings."""
    rng, link, found, count = random.Random(9), Link("127.0.0.1", port), 0, 0
    beginnings = [[rng.randrange(4, 300) for _ in range(256)] for _ in range(4)]
    for turn in range(8):
        for beginning in beginnings:
            prompt = [*beginning, rng.randrange(4, 300)]
            answer = await link.post(PATH, {"prompt": prompt, "max_tokens": 2})
            assert answer.status == 200, answer.body
            count += turn > 0
            found += turn > 0 and answer.body["usage"]["ttc"]["cached_prompt_tokens"] > 0
    link.close()
    return {"requests_with_a_known_beginning": count, "that_found_it": found}


async def overload(engine: ttc.Engine, port: int, seconds: float) -> dict[str, Any]:
    """More than all replicas take; everybody who is told to wait does so."""
    asked: list[tuple[dict[str, Any], Answer | str]] = []
    until = time.perf_counter() + seconds / 2
    await asyncio.gather(*(client(port, number, until, asked, waits=True) for number in range(48)))
    answers = [answer for _, answer in asked if isinstance(answer, Answer)]
    refused = [answer for answer in answers if answer.status == 429]
    whole = [(body, answer) for body, answer in asked if answered(answer) is not None]
    return {
        "statuses": {str(status): n for status, n in sorted(Counter(a.status for a in answers).items())},
        "failed_otherwise": [answer for _, answer in asked if isinstance(answer, str)],
        "refused": len(refused),
        "refused_without_retry_after": sum("retry-after" not in answer.headers for answer in refused),
        "refused_p99_ms": 1e3 * percentile([answer.seconds for answer in refused], 0.99) if refused else None,
        "refused_by": dict(Counter(answer.body["error"]["message"].split("; ")[0] for answer in refused)),
        "answers": len(whole),
        "answers_that_are_right": sum(answered(answer) == alone(engine, body) for body, answer in whole),
    }


async def scaling(engine: ttc.Engine, port: int, seconds: float) -> dict[str, Any]:
    """From one replica to two under load, and back."""
    asked: list[tuple[dict[str, Any], Answer | str]] = []
    assert running() == 1, "it begins with one"
    started, until = time.perf_counter(), time.perf_counter() + 3 * seconds
    loads = [asyncio.create_task(client(port, number, until, asked)) for number in range(CLIENTS)]
    up = await until_running(2, started)
    await asyncio.sleep(seconds / 3)  # both of them at work
    for load in loads:
        load.cancel()
    await asyncio.gather(*loads, return_exceptions=True)
    stopped = time.perf_counter()
    down = await until_running(1, stopped)
    whole = [(body, answer) for body, answer in asked if not body["stream"]]
    return {
        "seconds_from_one_to_two": up,
        "seconds_from_two_to_one": down,
        "scale_up_seconds": FIGURES["scaling"][1].scale_up_seconds,
        "scale_down_seconds": FIGURES["scaling"][1].scale_down_seconds,
        "whole_answers": len(whole),
        "whole_answers_that_are_right": sum(answered(a) == alone(engine, body) for body, a in whole),
        "streams_without_done": sum(body["stream"] and not is_done(answer) for body, answer in asked),
    }


async def until_running(count: int, since: float) -> float:
    """Return how many seconds after `since` so many replicas run."""
    while running() != count:
        assert time.perf_counter() - since < 240, f"{count} replicas are to run, not {running()}"
        await asyncio.sleep(0.1)
    return time.perf_counter() - since


_Measure = Callable[[ttc.Engine, int, float], Awaitable[dict[str, Any]]]
FIGURES: dict[str, tuple[Settings, Cluster, _Measure]] = {
    "killed": (Settings(max_rows=ROWS), Cluster(replicas=2), killed),
    "overload": (Settings(max_rows=2, max_queued=2), Cluster(replicas=2), overload),
    "scaling": (
        Settings(max_rows=4),
        Cluster(replicas=1, max_replicas=2, scale_up_seconds=3.0, scale_down_seconds=5.0),
        scaling,
    ),
}


if __name__ == "__main__":
    main()
