"""A block's keys and values put where they belong in the caches, on the GPU.

Engines give the new rows of a cache only (`ttc.exporter.passes.cache_rows`). One small CUDA C kernel writes
them in place, for all layers in one launch: rows [b, h, l] of n caches go to [b, h, lengths[b] + l]. `write`
is its plain twin. Where the kernel cannot be had, the host enqueues a copy for every row and head; it has the
lengths too.

Caches and rows each lie one after the other at a constant distance, as `packed_buffer.pack` lays equal
tensors.
"""

import itertools
from collections.abc import Sequence
from typing import Any

import numpy as np
import numpy.typing as npt

from ttc.runtime.gpu.device import Device, DeviceArray

__all__ = ["KERNEL", "SOURCE", "CacheWriter", "write"]

KERNEL, THREADS = "ttc_write_cache_rows", 128
# Program (row, cache); a row is `words` numbers of two bytes, of which every dtype here consists.
SOURCE = """
extern "C" __global__ void ttc_write_cache_rows(
    const unsigned short *rows, const int *lengths,
    int H, int L, int C, int words, long long rows_apart, long long caches_apart,
    unsigned short *caches)
{
    const long long row = blockIdx.x, cache = blockIdx.y;
    const int l = row % L, place = lengths[row / L / H] + l;
    if (place >= C)
        return;
    const unsigned short *from = rows + cache * rows_apart + row * words;
    unsigned short *to = caches + cache * caches_apart + (row / L * C + place) * words;
    for (int i = threadIdx.x; i < words; i += blockDim.x)
        to[i] = from[i];
}
"""
_WORD_BYTES = 2


def write(rows: npt.NDArray[Any], lengths: npt.NDArray[np.int32], caches: npt.NDArray[Any]) -> None:
    """The kernel in numpy, in place. rows: (n, B, H, L, P).  lengths: (B,).  caches: (n, B, H, C, P)."""
    C = caches.shape[3]
    for b, length in enumerate(lengths.tolist()):
        count = max(0, min(rows.shape[3], C - length))
        caches[:, b, :, length : length + count] = rows[:, b, :, :count]


class CacheWriter:
    """Args: the kernel, None where the host is to copy."""

    def __init__(self, device: Device, kernel: Any) -> None:
        self._device, self._kernel = device, kernel

    def write(
        self,
        rows: Sequence[DeviceArray],
        caches: Sequence[DeviceArray],
        lengths: DeviceArray,
        on_host: npt.NDArray[np.int32],
    ) -> None:
        """Enqueue it. rows: n of (B, H, L, P).  caches: n of (B, H, C, P).  lengths: (B,), also on the host,
        where a copy from there may stand for the kernel.
        """
        if self._kernel is None:
            self._copy(rows, caches, on_host)
            return
        B, H, L, _ = rows[0].shape
        words = rows[0].nbytes // (B * H * L) // _WORD_BYTES
        sizes = [np.int32(size) for size in (H, L, caches[0].shape[2], words)]
        apart = [np.int64(_apart(arrays) // _WORD_BYTES) for arrays in (rows, caches)]
        arguments = [rows[0].address, lengths.address, *sizes, *apart, caches[0].address]
        self._device.launch(self._kernel, (B * H * L, len(caches), 1), THREADS, 0, arguments)

    def _copy(
        self, rows: Sequence[DeviceArray], caches: Sequence[DeviceArray], lengths: npt.NDArray[np.int32]
    ) -> None:
        for source, target in zip(rows, caches, strict=True):
            B, H, L, P = source.shape
            heads, capacity = B * H, target.shape[2]
            given = DeviceArray.at(source.memory, _offset(source), source.dtype, (heads * L, P))
            whole = DeviceArray.at(target.memory, _offset(target), target.dtype, (heads * capacity, P))
            for head in range(heads):
                length = int(lengths[head // H])
                count = max(0, min(L, capacity - length))
                self._device.copy(whole.part(head * capacity + length, count), given.part(head * L, count))


def _apart(arrays: Sequence[DeviceArray]) -> int:
    """Bytes from each array to the next."""
    addresses = [array.address for array in arrays]
    distances = {after - before for before, after in itertools.pairwise(addresses)}
    assert len(distances) <= 1, "equal tensors are packed at equal distances"
    return distances.pop() if distances else 0


def _offset(array: DeviceArray) -> int:
    return array.address - array.memory.address
