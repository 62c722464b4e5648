"""Time as a parameter: the core and its deadlines ask a clock, so that tests need not wait."""

import time
from typing import Protocol

__all__ = ["Clock", "VirtualClock", "WallClock"]


class Clock(Protocol):
    """Seconds since some start; never runs back."""

    def now(self) -> float:
        """Return the present time in seconds."""


class WallClock:
    """The machine's own; where that is set back, it stands still meanwhile."""

    def __init__(self) -> None:
        self._latest = 0.0

    def now(self) -> float:
        """Return the present time in seconds."""
        self._latest = max(self._latest, time.perf_counter())
        return self._latest


class VirtualClock:
    """Stands still until somebody moves it."""

    def __init__(self) -> None:
        self._seconds = 0.0

    def now(self) -> float:
        """Return the present time in seconds."""
        return self._seconds

    def advance(self, seconds: float) -> None:
        """Let time pass."""
        assert seconds >= 0, "time does not run back"
        self._seconds += seconds
