"""The context state: what the context tower has read so far, a row for every request, in a backend's own
tensors.
"""

import contextlib
import mmap
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from math import prod
from typing import Any

import numpy as np
import numpy.typing as npt

from ttc.base.machine import physical_bytes

__all__ = ["ContextState", "RowPiece", "as_span", "lazy_zeros", "reserved_rows"]

Ints = npt.NDArray[np.int32]
_MOST_ROWS = 1024
_MAPPED_BYTES = 2**18


@dataclass(slots=True)
class ContextState:
    """State of B rows, which come and go: a row is reset by `Backend.clear_rows` and used again.

    Attributes:
        capacity: tokens that the attention caches of a row hold.
        lengths: (B,) int32 tokens that each row has committed.
        tensors: graph name → the backend's tensor, written by the backend only.
        touched: (B,) int32 the most tokens of each row that were ever written, committed or not: what has to
            be erased before somebody else has the row.
        most_rows: the most rows that it ever had.
    """

    capacity: int
    lengths: Ints
    tensors: dict[str, Any]
    touched: Ints = field(init=False)
    most_rows: int = field(init=False)

    def __post_init__(self) -> None:
        self.touched = self.lengths.copy()
        self.most_rows = self.batch

    @property
    def batch(self) -> int:
        """Number of rows."""
        return int(self.lengths.shape[0])

    @property
    def nbytes(self) -> int:
        """Size of its rows; room that is only reserved for more does not count."""
        return self._row_bytes * self.batch

    @property
    def held_bytes(self) -> int:
        """Size of the memory that it may have from the system: rows that left had some, too."""
        return self._row_bytes * self.most_rows

    @property
    def _row_bytes(self) -> int:
        return sum(int(tensor.nbytes) // tensor.shape[0] for tensor in self.tensors.values())

    def resize(self, batch: int) -> None:
        """Change the number of rows as far as the host counts them."""
        for name in ("lengths", "touched"):
            kept = getattr(self, name)[:batch]
            setattr(self, name, np.concatenate([kept, np.zeros(batch - len(kept), np.int32)]))
        self.most_rows = max(self.most_rows, batch)

    def rows(self, rows: Ints | None) -> Ints:
        """Return the row numbers that a call is about: `rows`, or all of them for None."""
        return np.arange(self.batch, dtype=np.int32) if rows is None else rows


@dataclass(frozen=True, slots=True)
class RowPiece:
    """A stretch of one row's context: the Mamba state after it, and its own keys and values.

    Attributes:
        start, stop: tokens from where to where.
        tensors: graph name → the backend's own array; of caches (KV heads, stop − start, P), unless it keeps
            those in another way.
        nbytes: size of all that is kept.
        finite: whether they are numbers throughout; True where nobody looks, since a GPU would have to wait
            for it. What is no number comes of the tokens, and who reads them again gets it again.
    """

    start: int
    stop: int
    tensors: Mapping[str, Any]
    nbytes: int
    finite: bool


def reserved_rows(batch: int, row_bytes: int) -> int:
    """Return how many rows a new state on the host should have room for, so that nobody moves when rows join.

    The memory comes from the system page by page, when it is written (`lazy_zeros`); until then a row costs
    address space alone. Of that a state takes up to a quarter of what the machine has as memory.

    Args:
        batch: rows that there are now.
        row_bytes: size of one.
    """
    most = (physical_bytes() or 0) // 4 // max(row_bytes, 1)
    return max(batch, min(_MOST_ROWS, most))


def lazy_zeros(shape: Sequence[int], dtype: npt.DTypeLike) -> npt.NDArray[Any]:
    """Return zeros that take no memory before somebody writes to them.

    numpy's own may come from the heap, which it then has to fill, so large ones are mapped; in pages of the
    usual size, since a large page would be filled for one row.
    """
    wanted = np.dtype(dtype)
    nbytes = prod(shape) * wanted.itemsize
    if nbytes < _MAPPED_BYTES or not hasattr(mmap, "MAP_ANONYMOUS"):
        return np.zeros(shape, wanted)
    memory = mmap.mmap(-1, nbytes, flags=mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS)
    if hasattr(mmap, "MADV_NOHUGEPAGE"):
        with contextlib.suppress(OSError):  # a system without large pages
            memory.madvise(mmap.MADV_NOHUGEPAGE)
    return np.frombuffer(memory, wanted).reshape(shape)


def as_span(rows: Ints) -> slice | Ints:
    """Return these row numbers, ascending, as a slice where they are neighbours: indexing by it makes a view,
    no copy.
    """
    first, count = int(rows[0]), len(rows)
    return slice(first, first + count) if int(rows[-1]) - first == count - 1 else rows
