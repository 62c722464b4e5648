"""Calls cut by rows, the parts carried out at once.

A call of a small model is many small nodes, of which none is worth a second thread; but rows are independent,
so that each core can have some of them. A row's numbers do not depend on the cut.
"""

from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from itertools import pairwise
from typing import TypeVar

__all__ = ["RowWorkers"]

T = TypeVar("T")

# Of a part; chosen so that handing it to another thread is little beside it, not measured.
_LEAST_TOKENS = 32


class RowWorkers:
    """Up to so many threads, the caller's among them; made when they are first needed."""

    def __init__(self, count: int) -> None:
        self.count = count
        self._pool: ThreadPoolExecutor | None = None

    def cut(self, rows: int, tokens: int) -> list[slice]:
        """Return the parts of a call over so many rows, each of so many tokens; one part where none pays."""
        parts = max(1, min(self.count, rows, rows * tokens // _LEAST_TOKENS))
        bounds = [rows * i // parts for i in range(parts + 1)]
        return [slice(start, stop) for start, stop in pairwise(bounds)]

    def run(self, calls: Sequence[Callable[[], T]]) -> list[T]:
        """Carry out the calls at once, and wait for all; raise what the first of them raised that failed."""
        if self._pool is None:
            self._pool = ThreadPoolExecutor(max(1, self.count - 1), "ttc-rows")
        others = [self._pool.submit(call) for call in calls[1:]]
        try:
            first = calls[0]()
        finally:
            for other in others:
                other.exception()  # waits: nobody may go on while rows are being written
        return [first, *(other.result() for other in others)]

    def close(self) -> None:
        """End the threads."""
        if self._pool is not None:
            self._pool.shutdown()
            self._pool = None
