"""What was dropped somewhere, until a device's runtime takes it back.

Python may collect garbage wherever it makes an object: also in the thread that holds the runtime's lock, in
the midst of a change to the books. So what `__del__` gives back is put down here, and taken back at once
where the lock is free, else by whoever next looks for something that is free.
"""

import threading
from collections import deque
from collections.abc import Callable

from ttc.runtime.gpu.closing import close_all

__all__ = ["Dropped"]


class Dropped:
    """The things, and the lock under which they are taken back."""

    def __init__(self) -> None:
        self.lock = threading.RLock()
        self._asked = threading.Condition(self.lock)
        self._waiting: deque[Callable[[], object]] = deque()

    def drop(self, give_back: Callable[[], object]) -> None:
        """Have this called with the lock held; never waits for it, so `__del__` may use it."""
        self._waiting.append(give_back)
        if self._is_held_here():
            return
        try:
            if self.lock.acquire(blocking=False):
                self.take_back()
        finally:
            # Not by what acquire() returned: an interrupt may come between the two.
            if self._is_held_here():
                self.lock.release()

    def take_back(self) -> None:
        """Call all that waits. The caller holds the lock, and is in the midst of nothing. Never raises."""
        while self._waiting:
            close_all([self._waiting.popleft()])

    def _is_held_here(self) -> bool:
        """Return whether this thread holds the lock."""
        try:
            self._asked.notify(0)  # nobody waits; it raises where the lock is not held
        except RuntimeError:
            return False
        return True
