"""Durations that can be divided by: a clock that stands still, or was set back, gives its smallest step."""

from typing import Final

__all__ = ["TICK_SECONDS", "passed"]

TICK_SECONDS: Final = 1e-9


def passed(start: float, end: float) -> float:
    """Return the seconds from `start` to `end`, at least one tick of the clock."""
    return max(end - start, TICK_SECONDS)
