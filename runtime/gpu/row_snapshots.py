"""Snapshots of rows of a pool: Mamba states in memory of their own, keys and values by their pages.

The memory for a prefix cache is taken when the cache is made, so that saving a row copies its Mamba state and
allocates nothing.
"""

from collections.abc import Callable, Sequence

from ttc.runtime.gpu.device import DeviceArray
from ttc.runtime.gpu.pool import Pool
from ttc.runtime.gpu.pool_memory import MambaRows
from ttc.runtime.gpu.row_pool import PAGE, pages_of

__all__ = ["Kept", "RowSnapshots", "Snapshot"]

# Memory and row in which the Mamba state of a snapshot lies.
Kept = tuple[MambaRows, int]


class Snapshot(dict[str, DeviceArray]):
    """A row as it was; dropping the last reference gives up what is kept of it.

    Args:
        place: where its Mamba state lies.
        pages: those from `first` on, in the order of the tokens.
        drop: called with `place` and `pages`.
    """

    def __init__(
        self,
        place: Kept,
        first: int,
        pages: Sequence[int],
        drop: Callable[[Kept, Sequence[int]], None],
    ) -> None:
        memory, row = place
        super().__init__({name: tensor.part(row, 1) for name, tensor in memory.tensors.items()})
        self.place, self.first, self.pages, self._drop = place, first, pages, drop

    def __del__(self) -> None:
        self._drop(self.place, self.pages)


class RowSnapshots:
    """Makes and takes back snapshots. The caller holds the runtime's lock."""

    def __init__(self, pool: Pool, drop: Callable[[Kept, Sequence[int]], None]) -> None:
        """drop: takes what a dropped snapshot kept, from whatever thread, and has `forget` called."""
        self._pool, self._drop = pool, drop
        self._memories: list[MambaRows] = []
        self._free: list[Kept] = []

    def reserve(self, nbytes: int, tokens: int) -> None:
        """Take memory for pieces of so many tokens up to so many bytes, and for one more, which is there
        before others are given up for it.

        Raises:
            DeviceMemoryError: there is no room for it.
        """
        pages = pages_of(tokens)
        count = nbytes // (self._pool.row_bytes + pages * self._pool.page_bytes) + 1
        self._make(count)
        self._pool.reserved_pages += count * pages
        self._pool.have(0, 0, 0)

    def save(self, row: int, start: int, stop: int) -> Snapshot:
        """Return what a row of the pool holds, its pages from that of token `start` on.

        Raises:
            DeviceMemoryError: there is no room for it, and none was reserved.
        """
        self._pool.runtime.dropped.take_back()
        if not self._free:
            self._make(1)
        memory, to = self._free.pop()
        memory.copy_row(to, self._pool.memory.rows, row)
        first = start // PAGE
        pages = self._pool.books.pages_in(row)[first : pages_of(stop)]
        self._pool.books.refer(pages)
        self._pool.reserved_pages -= len(pages)
        return Snapshot((memory, to), first, pages, self._drop)

    def load(self, row: int, snapshots: Sequence[Snapshot]) -> None:
        """Let a row hold what consecutive snapshots do, the first of them from the first token on."""
        pages: list[int] = []
        for each in snapshots:
            pages[each.first :] = each.pages  # the last page of one may be the first of the next, and fuller
        self._pool.books.adopt(row, pages)
        memory, place = snapshots[-1].place
        self._pool.memory.rows.copy_row(row, memory, place)

    def forget(self, place: Kept, pages: Sequence[int]) -> None:
        """Take back what was kept of a row."""
        self._free.append(place)
        self._pool.books.drop(pages)
        self._pool.reserved_pages += len(pages)

    def close(self) -> None:
        """Give the memory back. Never raises."""
        for memory in self._memories:
            memory.close()
        self._memories, self._free = [], []

    def _make(self, count: int) -> None:
        memory = self._pool.fit(lambda: MambaRows(self._pool.runtime, count))
        self._memories.append(memory)
        self._free += [(memory, row) for row in range(count)]
