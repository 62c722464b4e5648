"""Calls by the clock: some that warm up, then the ones that count."""

import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import TypeVar

from ttc.base.clock import passed
from ttc.profiling.phases import Prepare
from ttc.profiling.report import Part
from ttc.profiling.trace import Span

__all__ = ["WARM_UP", "Timed", "clock", "keeping"]

WARM_UP = 3
Call = Callable[[], object]
T = TypeVar("T")


@dataclass(frozen=True, slots=True)
class Timed:
    """One phase as measured: seconds of its calls, the parts of the fastest one, and its spans."""

    seconds: list[float]
    parts: tuple[Part, ...]
    spans: tuple[Span, ...]


def clock(
    prepare: Prepare, repeats: int, around: Callable[[Call], object] | None = None
) -> list[tuple[float, float]]:
    """Begin and end of each call after the warm-up; `around` makes the call, if something is to see it."""
    found = []
    for _ in range(WARM_UP + repeats):
        call = prepare()
        start = time.perf_counter()
        if around is None:
            call()
        else:
            around(call)
        found.append((start, start + passed(start, time.perf_counter())))
    return found[WARM_UP:]


def keeping(record: Callable[[Call], T], into: list[T]) -> Callable[[Call], None]:
    """Makes a call by `record`, and keeps what that gives."""

    def around(call: Call) -> None:
        into.append(record(call))

    return around
