"""Threads and tasks that call, stream, cancel and close at once.

    python -m tests.soak.threads --seconds 600

In every round an engine is loaded; threads call it, stream and leave, and cancel, while the main thread
closes it at some moment. A call must end with the tokens that it has alone, with fewer of them where it was
cancelled, or with the error of a closed engine; and it must end: where a round hangs, the stacks of all
threads are written and the process ends. Then the same with tasks and `AsyncEngine`.
"""

import argparse
import asyncio
import contextlib
import faulthandler
import random
import sys
import threading
import time
from collections import Counter
from collections.abc import Callable
from pathlib import Path

import ttc
from ttc.base.names import MODES, Mode
from ttc.errors import BackendError
from ttc.formats.shipped import shipped_bundle

__all__ = ["main", "rounds"]

THREADS, CALLS, MOST_SECONDS = 8, 6, 120
OPTIONS = {"max_new_tokens": 24, "stop_at_eos": False}
JOBS: list[tuple[list[int], Mode]] = [([5 + i, 9, 7][: 1 + i % 3], mode) for i in range(3) for mode in MODES]

Expected = dict[int, tuple[int, ...]]


def expected(bundle: Path) -> Expected:
    """The tokens of every job alone."""
    with ttc.load(bundle) as engine:
        return {
            i: tuple(engine.generate(prompt, mode, **OPTIONS).token_ids)
            for i, (prompt, mode) in enumerate(JOBS)
        }


def call(engine: ttc.Engine, rng: random.Random, due: Expected) -> str:
    """Make one call in one of the ways; return how it ended."""
    number = rng.randrange(len(JOBS))
    prompt, mode = JOBS[number]
    way = rng.randrange(4)
    try:
        if way == 0:
            got = tuple(engine.generate(prompt, mode, **OPTIONS).token_ids)
            assert got == due[number], (number, got, due[number])
            return "whole"
        if way == 1:
            tokens: list[int] = []
            left = rng.randrange(6)
            for event in engine.stream(prompt, mode, **OPTIONS):
                tokens += event.token_ids if event.committed else ()
                if left == 0:
                    break
                left -= 1
            assert tuple(tokens) == due[number][: len(tokens)]
            return "left"
        stop = ttc.Cancel()
        timer = threading.Timer(rng.uniform(0.0, 0.01), stop.cancel)
        timer.start()
        result = engine.generate(prompt, mode, cancel=stop, **OPTIONS)
        timer.cancel()
        timer.join()
        assert tuple(result.token_ids) == due[number][: len(result.token_ids)]
        assert result.finish_reason == "cancelled" or tuple(result.token_ids) == due[number]
        return "cancelled"
    except BackendError as fault:
        if "closed" not in str(fault):
            raise
        return "closed"


def in_threads(bundle: Path, rng: random.Random, due: Expected) -> Counter[str]:
    """One round with threads."""
    told: Counter[str] = Counter()
    faults: list[BaseException] = []
    engine, lock = ttc.load(bundle, prefix_cache_bytes=rng.choice((0, 2**20))), threading.Lock()

    def work(seed: int) -> None:
        own = random.Random(seed)
        try:
            for _ in range(CALLS):
                how = call(engine, own, due)
                with lock:
                    told[how] += 1
        except BaseException as fault:
            faults.append(fault)

    threads = [threading.Thread(target=work, args=(rng.randrange(2**31),)) for _ in range(THREADS)]
    for thread in threads:
        thread.start()
    closers = [threading.Thread(target=engine.close) for _ in range(rng.randrange(1, 3))]
    if rng.random() < 0.7:
        time.sleep(rng.uniform(0.0, 0.3))
    else:
        for thread in threads:
            thread.join()
    for closer in closers:
        closer.start()
    for thread in (*threads, *closers):
        thread.join()
    if faults:
        raise faults[0]
    return told


def in_tasks(bundle: Path, rng: random.Random, due: Expected) -> Counter[str]:
    """One round with tasks of one event loop."""
    return asyncio.run(_tasks(bundle, rng, due))


async def _tasks(bundle: Path, rng: random.Random, due: Expected) -> Counter[str]:
    told: Counter[str] = Counter()
    engine = ttc.AsyncEngine.load(bundle)

    async def work(seed: int) -> None:
        own = random.Random(seed)
        number = own.randrange(len(JOBS))
        prompt, mode = JOBS[number]
        try:
            if own.random() < 0.5:
                result = await engine.generate(prompt, mode, **OPTIONS)
                assert tuple(result.token_ids) == due[number]
                told["whole"] += 1
                return
            stream = engine.stream(prompt, mode, **OPTIONS)
            async with contextlib.aclosing(stream) as updates:
                async for update in updates:
                    if own.random() < 0.3 or update.result is not None:
                        break
            told["left"] += 1
        except BackendError as fault:
            if "closed" not in str(fault):
                raise
            told["closed"] += 1

    tasks = [asyncio.create_task(work(rng.randrange(2**31))) for _ in range(THREADS * 2)]
    for task in tasks:
        if rng.random() < 0.3:
            await asyncio.sleep(rng.uniform(0.0, 0.02))
            task.cancel()
    if rng.random() < 0.5:
        await asyncio.sleep(rng.uniform(0.0, 0.2))
        await engine.close()
    ends = await asyncio.gather(*tasks, return_exceptions=True)
    await engine.close()
    for end in ends:
        if isinstance(end, asyncio.CancelledError):
            told["cancelled"] += 1
        elif isinstance(end, BaseException):
            raise end
    return told


def rounds(bundle: Path, seconds: float, seed: int, least: int = 1) -> Counter[str]:
    """Make rounds for some seconds, `least` of each kind at least; return how their calls ended."""
    rng, due, told = random.Random(seed), expected(bundle), Counter[str]()
    before = threading.active_count()
    kinds: tuple[Callable[[Path, random.Random, Expected], Counter[str]], ...] = (in_threads, in_tasks)
    end, made = time.monotonic() + seconds, 0
    while made < least or time.monotonic() < end:
        for kind in kinds:
            faulthandler.dump_traceback_later(MOST_SECONDS, exit=True)
            try:
                told += kind(bundle, rng, due)
            finally:
                faulthandler.cancel_dump_traceback_later()
        made += 1
    assert threading.active_count() == before, threading.enumerate()
    told["rounds"] = made
    return told


def main(words: list[str] | None = None) -> int:
    """Run what the command line asks for; return the exit code."""
    parser = argparse.ArgumentParser(prog="python -m tests.soak.threads", description=__doc__)
    parser.add_argument("--seconds", type=float, default=600.0)
    parser.add_argument("--seed", type=int, default=0)
    asked = parser.parse_args(words)
    faulthandler.enable()
    sys.setswitchinterval(1e-4)  # more moments at which threads change places
    told = rounds(shipped_bundle(), asked.seconds, asked.seed)
    sys.stdout.write(", ".join(f"{count} {how}" for how, count in sorted(told.items())) + "\n")
    return 0


if __name__ == "__main__":
    sys.exit(main())
