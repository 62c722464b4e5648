"""A pool of rows and pages on one device: books, memory, and the buffers of calls over it.

It is as large as was ever asked for at once. Where more is needed, it is made anew, larger, and what it holds
is copied; graphs go, since they know addresses. `warm_up` sees to it that this does not happen later.
"""

import contextlib
from collections.abc import Callable, Iterator, Sequence
from typing import TypeVar

import numpy as np

from ttc.errors import DeviceMemoryError
from ttc.runtime.gpu.cuda_graphs import StepGraph
from ttc.runtime.gpu.device_runtime import DeviceRuntime
from ttc.runtime.gpu.eviction import evict_until_fits
from ttc.runtime.gpu.lanes import Buffers, Lane, Lanes
from ttc.runtime.gpu.pool_memory import PoolMemory, page_bytes, row_bytes
from ttc.runtime.gpu.row_pool import PAGE, SCRATCH, RowPool, pages_of
from ttc.runtime.interface.backend import Ints

__all__ = ["Pool"]

T = TypeVar("T")


class Pool:
    """The rows and pages of one device. The caller holds the runtime's lock.

    Attributes:
        runtime: what the backend's parts share.
        books: which row and page is whose.
        row_bytes: size of a row's Mamba state.
        page_bytes: size of a page, in all layers.
        reserved_pages: pages that snapshots have still to take, and nobody else may.
    """

    def __init__(self, runtime: DeviceRuntime) -> None:
        self.runtime = runtime
        self.row_bytes, self.page_bytes = row_bytes(runtime), page_bytes(runtime)
        self.reserved_pages = 0
        self.books = RowPool(1, 1, 1)
        self._memory: PoolMemory | None = None
        self._lanes = Lanes(runtime)
        self._in_use: Buffers | None = None
        runtime.graphs.make_room = self._make_room_for_graph

    @property
    def memory(self) -> PoolMemory:
        """The memory of all rows and pages."""
        assert self._memory is not None, "a pool has memory when it has rows"
        return self._memory

    @property
    def most_tokens(self) -> int:
        """Tokens that fit into the table of a row."""
        return self.books.width * PAGE

    def take(self, count: int, capacity: int) -> list[int]:
        """Return empty rows, and have free pages for `capacity` tokens in each.

        Raises:
            DeviceMemoryError: there is no room for them.
        """
        self.have(count, count * pages_of(capacity), pages_of(capacity))
        rows = [self.books.take_row() for _ in range(count)]
        for row in rows:
            self.memory.rows.clear_row(row)
        return rows

    def give(self, rows: Sequence[int]) -> None:
        """Take rows back, with their pages."""
        for row in rows:
            self.books.give_row(row)

    def clear(self, row: int) -> None:
        """Leave a row as one that was just taken."""
        self.books.clear_row(row)
        self.memory.rows.clear_row(row)

    def copy(self, row: int, to: int, tokens: int) -> None:
        """Let a row hold what another does, of which so many tokens count: pages are shared."""
        self.books.adopt(to, self.books.pages_in(row)[: pages_of(tokens)])
        if row != to:
            self.memory.rows.copy_row(to, self.memory.rows, row)

    def cover(self, rows: Ints, start: Ints, count: int) -> None:
        """Make rows (n,) ready for `count` tokens from token `start` (n,) on to be written.

        Raises:
            DeviceMemoryError: there is no room for their pages.
        """
        wanted = [(row, at, at + count) for row, at in zip(rows.tolist(), start.tolist(), strict=True)]
        self.have(
            0, sum(self.books.due(*each) for each in wanted), pages_of(max(stop for *_, stop in wanted))
        )
        for each in wanted:
            self.memory.copy_pages(self.books.cover(*each))

    def placement(self, rows: Ints, batch: int) -> dict[str, Ints]:
        """Return `POOL_INPUTS` of a call over these rows, filled up with the scratch row."""
        placed = np.full(batch, SCRATCH, np.int32)
        placed[: len(rows)] = rows
        return {"rows": placed, "pages": self.books.table[placed]}

    def bytes_of(self, rows: Sequence[int]) -> int:
        """Return the size of rows and their pages; pages that two share count twice."""
        pages = sum(len(self.books.pages_in(row)) for row in rows)
        return len(rows) * self.row_bytes + pages * self.page_bytes

    def have(self, rows: int, pages: int, width: int) -> None:
        """Have so many free rows and pages, beside those that are reserved, and tables so wide; the pool is
        made anew if it is too small.

        Raises:
            DeviceMemoryError: there is no room for it.
        """
        self.runtime.dropped.take_back()
        books = self.books
        due_rows = max(0, rows - books.free_rows)
        due_pages = max(0, pages + max(0, self.reserved_pages) - books.free_pages)
        if self._memory is None or due_rows or due_pages:
            exact = books.rows + due_rows, books.pages + due_pages
            used = books.rows - 1 + due_rows
            # A power of two of rows, and half as many pages again: then this is seldom.
            power = 1 + (1 << max(0, used - 1).bit_length())
            ample = max(books.rows, power), max(exact[1], books.pages * 3 // 2 if due_pages else 0)
            try:
                self._move(*ample)
            except DeviceMemoryError:
                if ample == exact:
                    raise
                self._move(*exact)
        if width > books.width:
            self._retire()
            books.enlarge(0, 0, max(width, 2 * books.width))

    def lane(self, owner: object | None, saves: tuple[int, Ints] | None = None) -> Lane:
        """Return a lane that a call may use, see `Lane.is_free`."""
        return self._lanes.free(self.memory, self.books.width, owner, saves)

    def is_current(self, lane: Lane) -> bool:
        """Return whether calls may use a lane: the pool has not moved since it was made."""
        return lane.memory is self._memory and lane.width == self.books.width

    def fit(self, make: Callable[[], T]) -> T:
        """Return what `make` returns; where memory is short, what is not in use is given up for it."""
        return evict_until_fits(make, self._make_room)

    def run(self, call: Buffers, work: StepGraph) -> None:
        """Enqueue a work of these buffers, for whose first run room is made."""
        with self.using(call):
            self.fit(work.run)

    @contextlib.contextmanager
    def using(self, call: Buffers) -> Iterator[None]:
        """Do not give up these buffers meanwhile, whatever memory is short for."""
        self._in_use = call
        try:
            yield
        finally:
            self._in_use = None

    def close(self) -> None:
        """Give everything back. Never raises."""
        self._lanes.close()
        if self._memory is not None:
            self._memory.close()

    def _move(self, rows: int, pages: int) -> None:
        larger = self.fit(lambda: PoolMemory(self.runtime, rows, pages))
        if self._memory is not None:
            larger.take_over(self._memory)
            self._retire()
            self._memory.close()
        self._memory = larger
        self.books.enlarge(rows, pages, 0)

    def _retire(self) -> None:
        self.runtime.device.wait()
        self._lanes.retire()

    def _make_room(self) -> bool:
        """Give back what the executor does not use, else buffers of calls that are not in use."""
        return self._give_back(other_rows=False)

    def _make_room_for_graph(self) -> bool:
        """Do the same for a graph, which is not worth the buffers of calls over as many rows: those would be
        made again at once.
        """
        return self._give_back(other_rows=True)

    def _give_back(self, *, other_rows: bool) -> bool:
        self.runtime.device.wait()
        made = self.runtime.executor.trim() or self._lanes.make_room(self._in_use, other_rows=other_rows)
        self.runtime.graphs.room_made += made
        return made
