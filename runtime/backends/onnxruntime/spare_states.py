"""States that nobody uses, kept to be used again: their memory is there, and so is what is bound to it.

A state's memory comes from the system page by page as it is written, and every kind of call is bound to it
once. A short answer would pay for both each time. So a state that is given back waits here, empty, until one
of its capacity is asked for.
"""

import threading

from ttc.base.machine import free_bytes, physical_bytes
from ttc.runtime.interface.state import ContextState

__all__ = ["SpareStates"]

# Of all that wait, and the part of the machine's memory that it may be; nothing waits where less is free.
_MOST_BYTES, _SHARE = 64 * 2**20, 64


class SpareStates:
    """One state of each capacity, up to so many bytes in all; what waited longest goes first. Thread-safe.

    Args:
        most_bytes: None for what suits the machine.
    """

    def __init__(self, most_bytes: int | None = None) -> None:
        share = (physical_bytes() or 0) // _SHARE
        self._most = min(_MOST_BYTES, share) if most_bytes is None else most_bytes
        self._waiting: dict[int, ContextState] = {}  # by capacity, what waited longest first
        self._nbytes, self._closed = 0, False
        self._lock = threading.Lock()

    @property
    def nbytes(self) -> int:
        """Size of the memory that waits."""
        return self._nbytes

    def take(self, capacity: int) -> ContextState | None:
        """Return an empty state of this capacity; None where none waits."""
        with self._lock:
            state = self._waiting.pop(capacity, None)
            if state is not None:
                self._nbytes -= state.held_bytes
            return state

    def put(self, state: ContextState) -> None:
        """Let a state wait; its rows are empty, and nobody else has it."""
        size = state.held_bytes
        free = free_bytes()
        if free is not None and free < self._most:
            self.clear()
            return
        with self._lock:
            if size > self._most or self._closed:
                return
            self._drop(state.capacity)
            while self._nbytes + size > self._most:
                self._drop(next(iter(self._waiting)))
            self._waiting[state.capacity] = state
            self._nbytes += size

    def clear(self) -> None:
        """Give all memory back to the system."""
        with self._lock:
            self._waiting.clear()
            self._nbytes = 0

    def close(self) -> None:
        """Give all memory back, and let no state wait any more."""
        with self._lock:
            self._closed = True
        self.clear()

    def _drop(self, capacity: int) -> None:
        old = self._waiting.pop(capacity, None)
        if old is not None:
            self._nbytes -= old.held_bytes
