"""The phases of a build: how long each took, and how much memory its process had used by its end."""

import os
import sys
import time
from collections.abc import Iterator, Mapping, MutableMapping
from contextlib import contextmanager
from dataclasses import dataclass

__all__ = ["BuildPhase", "joined", "timed_phase"]

_STATUS = bytearray(8192)


@dataclass(frozen=True, slots=True)
class BuildPhase:
    """What a phase cost.

    Attributes:
        seconds: wall time.
        peak_bytes: the largest resident memory of the process from its start to the end of the phase; 0 where
            the system does not tell.
    """

    seconds: float
    peak_bytes: int


@contextmanager
def timed_phase(phases: MutableMapping[str, BuildPhase], name: str) -> Iterator[None]:
    """Put what the body of the `with` costs into `phases`, added to what already has the name."""
    start = time.perf_counter()
    yield
    phases.update(joined(phases, {name: BuildPhase(time.perf_counter() - start, _peak_bytes())}))


def joined(first: Mapping[str, BuildPhase], second: Mapping[str, BuildPhase]) -> dict[str, BuildPhase]:
    """Return the phases of both, with seconds added up and the larger of the peaks."""
    found = dict(first)
    for name, new in second.items():
        old = found.get(name, BuildPhase(0.0, 0))
        found[name] = BuildPhase(old.seconds + new.seconds, max(old.peak_bytes, new.peak_bytes))
    return found


def _peak_bytes() -> int:
    """Return the peak of this process.

    Linux's ru_maxrss will not do: a process inherits it from the one that started it. The status is read into
    memory that is there already, since what a building process allocates moves the order of tensors in its
    engine (`ttc.exporter.engines.isolated`).
    """
    try:
        file = os.open("/proc/self/status", os.O_RDONLY)
    except OSError:
        return _peak_elsewhere()
    try:
        os.readv(file, [_STATUS])
    finally:
        os.close(file)
    start = _STATUS.find(b"VmHWM:")
    return 0 if start < 0 else 1024 * int(_STATUS[start + 6 : _STATUS.find(b"kB", start)])


def _peak_elsewhere() -> int:
    """Return the peak where there is no /proc."""
    try:
        import resource
    except ImportError:
        return 0
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * (1 if sys.platform == "darwin" else 1024)
