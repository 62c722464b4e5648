"""One part of a weight, read piece by piece into memory of somebody else's.

What lies in a file as the graph takes it is read from there; what has to be converted first is made when its
first piece is asked for, and dropped with its last.
"""

import threading
from collections.abc import Callable
from typing import Any, Protocol

import numpy as np
import numpy.typing as npt

from ttc.formats.shard import Shard

__all__ = ["ConvertedPart", "PartReader", "StoredPart"]


class PartReader(Protocol):
    """A part of a weight in the graph's dtype, as bytes."""

    @property
    def nbytes(self) -> int:
        """Length in bytes."""

    def fill(self, target: memoryview, begin: int) -> None:
        """Fill `target`, which is of bytes, with the part's bytes from `begin` on.

        Thread-safe; every byte of a part is asked for once.

        Raises:
            BundleError, NumericsError: as `Bundle.read_weight`.
        """


class StoredPart:
    """A tensor of a shard that is stored as the graph takes it."""

    def __init__(self, shard: Shard, tensor: str) -> None:
        self._shard, self._tensor = shard, tensor
        self.nbytes = shard.info(tensor).nbytes

    def fill(self, target: memoryview, begin: int) -> None:
        """See `PartReader.fill`."""
        self._shard.fill(self._tensor, target, begin)


class ConvertedPart:
    """A part that has to be made.

    Args:
        make: returns it.
        nbytes: that it will have.
    """

    def __init__(self, make: Callable[[], npt.NDArray[Any]], nbytes: int) -> None:
        self._make, self.nbytes, self._left = make, nbytes, nbytes
        self._made: npt.NDArray[np.uint8] | None = None
        self._lock = threading.Lock()

    def fill(self, target: memoryview, begin: int) -> None:
        """See `PartReader.fill`."""
        with self._lock:
            if self._made is None:
                self._made = np.ascontiguousarray(self._make()).reshape(-1).view(np.uint8)
                assert self._made.nbytes == self.nbytes
            made = self._made
            self._left -= len(target)
            if not self._left:
                self._made = None
        np.frombuffer(target, np.uint8)[...] = made[begin : begin + len(target)]
