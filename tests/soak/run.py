"""A soak: many generations and many loads in one process, with memory, descriptors and threads looked at as
it goes on.

    python -m tests.soak.run                                      100,000 generations, 1000 loads
    python -m tests.soak.run --generations 300 --loads 5          a quick look

The miniature on ONNX Runtime. A generation is short (up to 4 tokens) and of any mode; some are streamed and
left, some cancelled, some refused. A record with every sample goes to build/soak.json (`-o`); the exit code
is 1 where something grew.
"""

import argparse
import contextlib
import dataclasses
import os
import random
import statistics
import sys
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import ttc
from ttc.base.names import MODES
from ttc.bench.identity import commit, load_average, machine, now
from ttc.bench.record_file import record_file, write_record
from ttc.errors import InputError
from ttc.formats.shipped import shipped_bundle

__all__ = ["Sample", "grown", "main", "samples"]

SAMPLES = 50
# Between what is taken after a tenth of the work and what is taken at its end.
MOST_GROWTH_BYTES = 16 * 2**20


@dataclasses.dataclass(frozen=True, slots=True)
class Sample:
    """What the process holds after so much work."""

    done: int
    seconds: float
    rss_bytes: int
    descriptors: int
    threads: int


def generate(engine: ttc.Engine, rng: random.Random) -> None:
    """Do one thing that a caller may do."""
    prompt = [rng.randrange(4, 300) for _ in range(rng.randrange(1, 16))]
    asked = ttc.GenerationOptions(
        mode=rng.choice(MODES),
        max_new_tokens=rng.randrange(1, 5),
        steps=2,
        temperature=rng.choice((0.0, 0.8)),
        seed=rng.randrange(2**31),
    )
    match rng.randrange(10):
        case 0:
            for _ in engine.stream(prompt, asked):
                break
        case 1:
            stop = ttc.Cancel()
            stop.cancel()
            engine.generate(prompt, asked, cancel=stop)
        case 2:
            with contextlib.suppress(InputError):
                engine.generate([10**6], asked)
        case _:
            engine.generate(prompt, asked)


def load(bundle: Path, rng: random.Random) -> None:
    """Load, use and close an engine."""
    with ttc.load(bundle) as engine:
        engine.generate([5, 6, 7], mode=rng.choice(MODES), max_new_tokens=1)


def samples(work: Callable[[], None], count: int) -> Iterator[Sample]:
    """Do the work so many times; yield what the process holds, `SAMPLES` times on the way."""
    start = time.perf_counter()
    for done in range(1, count + 1):
        work()
        if done % max(1, count // SAMPLES) == 0:
            yield _sample(done, time.perf_counter() - start)


def grown(found: list[Sample]) -> list[str]:
    """Return what grew, one sentence each: from after the first tenth, when all is warm, to the end."""
    warm = found[len(found) // 10 :]
    part = max(1, len(warm) // 5)
    told = []
    for name, most in (("rss_bytes", MOST_GROWTH_BYTES), ("descriptors", 0), ("threads", 0)):
        first, last = (
            statistics.median(getattr(sample, name) for sample in each)
            for each in (warm[:part], warm[-part:])
        )
        if last - first > most:
            told.append(f"{name}: from {first:.0f} to {last:.0f} over {warm[0].done} to {warm[-1].done}")
    return told


def main(words: list[str] | None = None) -> int:
    """Run what the command line asks for; return the exit code."""
    parser = argparse.ArgumentParser(prog="python -m tests.soak.run", description=__doc__)
    parser.add_argument("--generations", type=int, default=100_000)
    parser.add_argument("--loads", type=int, default=1000)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("-o", "--output", type=record_file, default="build/soak.json")
    asked = parser.parse_args(words)
    rng, bundle = random.Random(asked.seed), shipped_bundle()
    record = {
        "machine": dataclasses.asdict(machine()),
        "commit": commit(),
        "started": now(),
        "load_average": load_average(),
        "seed": asked.seed,
        "most_growth_bytes": MOST_GROWTH_BYTES,
    }
    bad = 0
    for name, count in (("loads", asked.loads), ("generations", asked.generations)):
        if not count:
            continue
        with ttc.load(bundle) as engine:

            def work(name: str = name, engine: ttc.Engine = engine) -> None:
                load(bundle, rng) if name == "loads" else generate(engine, rng)

            found = list(samples(work, count))
        told = grown(found)
        bad += len(told)
        last = found[-1]
        sys.stdout.write(
            f"{name}: {count} in {last.seconds:.0f} s, {last.rss_bytes / 2**20:.0f} MiB, "
            f"{last.descriptors} descriptors, {last.threads} threads; {'; '.join(told) or 'nothing grew'}\n"
        )
        sys.stdout.flush()
        record[name] = {"count": count, "grown": told, "samples": [dataclasses.asdict(s) for s in found]}
    record["load_average_at_end"] = load_average()
    write_record(asked.output, record)
    return int(bad > 0)


def _sample(done: int, seconds: float) -> Sample:
    pages = int(Path("/proc/self/statm").read_text().split()[1])
    return Sample(
        done,
        round(seconds, 3),
        pages * os.sysconf("SC_PAGE_SIZE"),
        len(os.listdir("/proc/self/fd")),
        threading.active_count(),
    )


if __name__ == "__main__":
    sys.exit(main())
