"""How many tokens and rows calls are padded to, so that few sizes need buffers and graphs of their own."""

from typing import Any

import numpy as np
import numpy.typing as npt

from ttc.runtime.interface.backend import Ints, Limits

__all__ = ["call_lengths", "padded_length", "padded_rows", "row_bucket", "widened"]


def padded_length(length: int, room: int, limits: Limits | None) -> int:
    """Return how many tokens a context call over `length` reads: few lengths shall need a graph of their own.

    The next length that the engines were built for, or else the next power of two where the cache has room
    for it and the engine takes it; what is added is never committed.
    """
    if limits is not None and limits.lengths:
        return min(fixed for fixed in limits.lengths if fixed >= length)
    wide = 1 << (length - 1).bit_length()
    most = room if limits is None else min(room, limits.reads[1])
    return wide if wide <= most else length


def call_lengths(block: int, chunk: int, limits: Limits | None) -> list[int]:
    """Return what context calls over up to `chunk` tokens, and over a block, are padded to."""
    if limits is not None and limits.lengths:
        return list(limits.lengths)
    powers = {1 << power for power in range(chunk.bit_length())}
    return sorted({block, chunk} | powers)


def widened(rows: Ints, width: int) -> Ints:
    """Return the rows filled up with zeros, (B, width)."""
    return np.pad(rows, ((0, 0), (0, width - rows.shape[1])))


def row_bucket(rows: int) -> int:
    """Return how many rows a call about so many is padded to: 1, 2, 4, 8, then 12, 16, 24, 32, 48 and so on,
    so that never more than a third of eight rows or more are added.
    """
    power = 1 << (rows - 1).bit_length()
    between = power * 3 // 4
    return between if power >= 16 and rows <= between else power


def padded_rows(array: npt.NDArray[Any], batch: int) -> npt.NDArray[Any]:
    """Return the rows followed by zeros, `batch` in all; always a copy."""
    if len(array) == batch:
        return array.copy()
    return np.concatenate([array, np.zeros((batch - len(array), *array.shape[1:]), array.dtype)])
