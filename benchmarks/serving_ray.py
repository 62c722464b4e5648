"""Two replicas on Ray Serve, of which one is killed under load. On this CPU; the miniature.

    python -m benchmarks.serving_ray --bundle mini.bundle -o build/serving_ray.json

Needs `pip install 'twotower-compiler[ray]'`, best in an environment of its own. Clients ask one request after
another, half of them as streams, all with a seed; some seconds later one replica's process gets SIGKILL.
Compared with `Engine.generate` for each request alone:

- *whole answers*: how many are 200 with the same tokens, of all that were asked for;
- *streams*: how many ended in `[DONE]`, and how many of those were not complete: none may be;
- *seconds until two replicas run again*;
- *prefix*: requests that begin alike, and how many found their beginning in the cache of their replica.
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
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import ray
from ray import serve

import ttc
from benchmarks.serving_client import Answer, Link
from benchmarks.serving_load import PATH, percentile
from ttc.bench.identity import load_average, machine, now
from ttc.serving.adapters.ray import Cluster, build
from ttc.serving.service.settings import Settings

CLIENTS, NEW, ROWS = 12, 48, 8


def main() -> None:
    """Measure, print, write."""
    parser = argparse.ArgumentParser(description="Kill a replica under load.")
    parser.add_argument("--bundle", type=Path, required=True, help="The miniature's.")
    parser.add_argument("--seconds", type=float, default=30.0, help="of load; the kill comes after a third")
    parser.add_argument("-o", "--output", type=Path, default=Path("build/serving_ray.json"))
    args = parser.parse_args()
    report: dict[str, Any] = {
        "command": shlex.join(["python", "-m", "benchmarks.serving_ray", *sys.argv[1:]]),
        "date": now(),
        "machine": dataclasses.asdict(machine()),
        "ray": ray.__version__,
        "load_at_start": load_average(),
    }
    with ttc.load(args.bundle) as engine, two_replicas(args.bundle) as port:
        report |= asyncio.run(measure(engine, port, args.seconds))
    print(json.dumps(report, indent=1))
    args.output.parent.mkdir(parents=True, exist_ok=True)
    args.output.write_text(json.dumps(report, indent=1) + "\n", encoding="utf-8")


@contextlib.contextmanager
def two_replicas(bundle: Path) -> Iterator[int]:
    """Run two replicas on a free port."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = int(free.getsockname()[1])
    ray.init(num_cpus=2, include_dashboard=False, log_to_driver=False)
    try:
        serve.start(http_options={"host": "127.0.0.1", "port": port})
        serve.run(build(Settings(bundle=str(bundle), max_rows=ROWS), Cluster(replicas=2)))
        yield port
    finally:
        serve.shutdown()
        ray.shutdown()


async def measure(engine: ttc.Engine, port: int, seconds: float) -> dict[str, Any]:
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
    port: int, number: int, until: float, asked: list[tuple[dict[str, Any], Answer | str]]
) -> None:
    """Ask until the time is over."""
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
            asked.append((body, await asyncio.wait_for(link.post(PATH, body), 60)))
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
    assert len(before) == 2, before
    os.kill(before[0], signal.SIGKILL)
    started = time.perf_counter()
    await asyncio.sleep(0.2)
    while True:
        states = serve.status().applications["default"].deployments["replica"].replica_states
        running = {str(getattr(state, "value", state)): count for state, count in states.items()}
        if running.get("RUNNING") == 2 and len(set(replica_processes()) - {before[0]}) == 2:
            return time.perf_counter() - started
        assert time.perf_counter() - started < 60, f"two replicas do not run: {running}"
        await asyncio.sleep(0.05)


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


if __name__ == "__main__":
    main()
