"""Writes and reads on a machine that fails them, one way after another, each in a child of its own.

Started as `python -m tests.faults.attempts FOLDER KIND`. For each child it prints a line of JSON: what was
the matter, how it ended ("done", the error's class and text, or the signal), and what is wrong with what it
left.
"""

import contextlib
import ctypes
import errno
import json
import os
import resource
import shutil
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path

from tests.faults.test_faults import check_whole
from tests.formats.test_atomic_folder import MANIFEST, fill
from ttc.base.files import read_bounded, write_whole
from ttc.errors import BundleError, InputError, TtcError
from ttc.exporter.engines.cache import EngineCache
from ttc.formats.atomic_folder import bundle_writer
from ttc.formats.shard import Shard
from ttc.model.bundle import Bundle

KEY = "0" * 64
Matter = tuple[str, Callable[[], object]]


def write(folder: Path, text: str) -> None:
    """Replace a bundle, a file and an entry of a cache."""
    with bundle_writer(folder / "bundle", force=True) as draft:
        fill(draft, text * 20000)
        draft.commit(MANIFEST)
    write_whole(folder / "report.json", text * 20000)
    cache = EngineCache(folder / "cache")
    cache.clear()
    cache.put(KEY, {"a.engine": folder / "report.json"}, {})


def read(folder: Path, text: str) -> None:
    """Read all of that, and a shard."""
    with Bundle.open(folder / "bundle") as bundle:
        assert bundle.read_file("step.onnx") == text.encode() * 20000
    assert read_bounded(folder / "report.json", 10**6, BundleError) == text.encode() * 20000
    with Shard.open(folder / "x.safetensors") as shard:
        assert shard.read("a").tolist() == [1.0] * 4
    taken = folder / "taken"
    try:
        shutil.rmtree(taken, ignore_errors=True)
        taken.mkdir()
        names = EngineCache(folder / "cache").take(KEY, taken)  # what cannot be read is a miss
    except OSError as fault:  # of the folder that it is copied to, which is the caller's
        raise InputError(str(fault)) from None
    assert not names or read_bounded(taken / "a.engine", 10**6, BundleError) == text.encode() * 20000


def failing_calls(numbers: tuple[int, ...]) -> Iterator[Matter]:
    """Every call to the C library fails once, with each of these errnos."""
    shim = ctypes.CDLL(os.environ["LD_PRELOAD"])
    for number in numbers:
        for call in range(1, 1000):

            def fail(call: int = call, number: int = number) -> None:
                shim.fault_at(call, number)

            yield f"{errno.errorcode[number]} at {call}", fail


def few_descriptors() -> Iterator[Matter]:
    """From none that is left to enough."""
    used = len(os.listdir("/proc/self/fd")) - 1
    for more in range(12):
        limit = (used + more, used + more)
        yield f"{more} descriptors", lambda limit=limit: resource.setrlimit(resource.RLIMIT_NOFILE, limit)


def little_memory() -> Iterator[Matter]:
    """From nothing that is left to 4 MiB."""
    for more in range(0, 2**22, 2**17):
        yield f"{more} bytes", lambda more=more: _take_all_but(more)


_TAKEN: list[bytearray] = []


def _take_all_but(free: int) -> None:
    """Take all memory that the process may have, but so many bytes."""
    pages = int(Path("/proc/self/statm").read_text().split()[0])
    most = pages * os.sysconf("SC_PAGE_SIZE") + 2**23
    resource.setrlimit(resource.RLIMIT_AS, (most, most))
    for size in (2**17, 2**12, 600):
        with contextlib.suppress(MemoryError):
            while True:
                _TAKEN.append(bytearray(size))
    del _TAKEN[: free // 2**17]


def odd_clocks() -> Iterator[Matter]:
    """A clock that stands, runs back, or is years off."""
    real = time.time()
    for name, told in (
        ("stands", lambda: real),
        ("back", lambda: real - time.perf_counter()),
        ("past", lambda: 0.0),
        ("future", lambda: real + 10**9),
    ):
        yield name, lambda told=told: setattr(time, "time", told)


def attempt(matter: Matter, work: Callable[[], None]) -> str:
    """Do the work in a child on a machine where that is the matter; return how it ended."""
    here, there = os.pipe()
    child = os.fork()
    if child == 0:
        os.close(here)
        said = b"done"
        try:
            matter[1]()
            work()
        except BaseException as fault:
            kind = "refused" if isinstance(fault, TtcError) else type(fault).__name__
            with contextlib.suppress(BaseException):
                said = f"{kind}: {fault}".encode()[:500]
        os.write(there, said)
        if "LD_PRELOAD" in os.environ and ctypes.CDLL(os.environ["LD_PRELOAD"]).fault_calls() < _due(matter):
            os.write(there, b" (no such call)")
        os._exit(0)
    os.close(there)
    with os.fdopen(here, "rb") as answer:
        said = answer.read()
    _, status = os.waitpid(child, 0)
    return f"signal {status & 127}" if status & 127 else said.decode()


def _due(matter: Matter) -> int:
    return int(matter[0].split()[-1])


def wrong(folder: Path, allowed: tuple[str, ...]) -> str:
    """Return what is wrong with what is there now; empty if all is whole, of the old content or the new."""
    try:
        check_whole(folder)
        with Bundle.open(folder / "bundle") as bundle:
            found = {bundle.read_file("step.onnx").decode()[0], (folder / "report.json").read_text()[0]}
        return "" if found <= set(allowed) else f"content of {found}, not of {allowed}"
    except Exception as fault:
        return f"{type(fault).__name__}: {fault}"


def main() -> None:
    """Make all attempts of one kind."""
    folder, kind = Path(sys.argv[1]), sys.argv[2]
    reads = kind == "failing-reads"
    matters = {
        "failing-writes": lambda: failing_calls((errno.EIO, errno.ENOSPC)),
        "failing-reads": lambda: failing_calls((errno.EIO,)),
        "few-descriptors": few_descriptors,
        "little-memory": little_memory,
        "odd-clocks": odd_clocks,
    }[kind]
    write(folder, "0")
    before, skip = "0", ""
    for number, matter in enumerate(matters()):
        if skip and matter[0].startswith(skip):
            continue
        text = before if reads else chr(ord("a") + number % 26)
        if not reads:
            shutil.rmtree(folder / "cache", ignore_errors=True)
        said = attempt(matter, lambda text=text: (read if reads else write)(folder, text))
        _say(matter[0], said, wrong(folder, (before, text)))
        skip = matter[0].split()[0] if said.endswith("(no such call)") else ""
        if not reads:  # the next writer finds what this one left
            write(folder, text)
            before = text
    left = [path.name for path in folder.rglob(".*")]
    _say("at the end", "done", f"left: {left}" if left else "")


def _say(*words: str) -> None:
    sys.stdout.write(json.dumps(words) + "\n")
    sys.stdout.flush()


if __name__ == "__main__":
    main()
