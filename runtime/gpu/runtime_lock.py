"""The lock of a device's runtime, and what is given back to it from anywhere.

Python may collect garbage wherever it makes an object: also in the thread that holds the lock, in the midst
of a change to the books. So what `__del__` gives back is taken where nobody is in the midst of anything: at
once where the lock is free, else when whoever holds it lets go.
"""

import threading
from collections import deque
from collections.abc import Callable

__all__ = ["RuntimeLock"]


class RuntimeLock:
    """A lock that the thread which holds it may take again; a context manager."""

    def __init__(self) -> None:
        self._lock = threading.RLock()
        self._depth = 0  # how many times it is held; `_drain` counts as one
        self._dropped: deque[Callable[[], None]] = deque()

    def __enter__(self) -> None:
        self._lock.acquire()
        self._depth += 1

    def __exit__(self, *_: object) -> None:
        self._depth -= 1
        is_free = self._depth == 0
        self._lock.release()
        if is_free:
            self._drain()

    def drop(self, give_back: Callable[[], None]) -> None:
        """Have this called with the lock held, soon, by some thread; never waits, so `__del__` may use it."""
        self._dropped.append(give_back)
        self._drain()

    def _drain(self) -> None:
        # Whoever holds the lock looks again after letting go of it.
        while self._dropped and self._lock.acquire(blocking=False):
            try:
                if self._depth:
                    return
                self._depth = 1
                try:
                    while self._dropped:
                        self._dropped.popleft()()
                finally:
                    self._depth = 0
            finally:
                self._lock.release()
