"""The keys and values of a block appended to the caches, on the GPU.

Engines give the new keys and values only, not whole caches (`ttc.model.rewrites`). One
small CUDA C kernel writes them where they belong, for all layers in one launch: vector [b, h, l] of n tensors
goes to position [b, h, lengths[b] + l] of their caches. `append_kv` is its reference. Where the kernel is not
available, the host enqueues a copy for every row and head; it has the lengths too.

Caches and new tensors each lie one after the other at a constant distance, as `packed_buffer.pack` lays equal
tensors.
"""

import itertools
from collections.abc import Sequence
from typing import Any

import numpy as np
import numpy.typing as npt

from ttc.runtime.gpu.device import Device, DeviceArray

__all__ = ["KERNEL", "SOURCE", "KvAppender", "append_kv"]

KERNEL, THREADS = "ttc_write_cache_rows", 128
# Program (vector, cache); a vector is `words` numbers of two bytes, of which every dtype here consists.
SOURCE = """
extern "C" __global__ void ttc_write_cache_rows(
    const unsigned short *new_kv, const int *lengths,
    int H, int L, int C, int words, long long new_kv_apart, long long caches_apart,
    unsigned short *caches)
{
    const long long vector = blockIdx.x, cache = blockIdx.y;
    const int l = vector % L, position = lengths[vector / L / H] + l;
    if (position >= C)
        return;
    const unsigned short *from = new_kv + cache * new_kv_apart + vector * words;
    unsigned short *to = caches + cache * caches_apart + (vector / L * C + position) * words;
    for (int i = threadIdx.x; i < words; i += blockDim.x)
        to[i] = from[i];
}
"""
_WORD_BYTES = 2


def append_kv(new_kv: npt.NDArray[Any], lengths: npt.NDArray[np.int32], caches: npt.NDArray[Any]) -> None:
    """The kernel in numpy, in place; what has no room in a cache is left out.

    Args:
        new_kv: (n, B, H, L, P) new keys or values of n caches.
        lengths: (B,) tokens in the caches of each row.
        caches: (n, B, H, C, P).
    """
    C = caches.shape[3]
    for b, length in enumerate(lengths.tolist()):
        count = max(0, min(new_kv.shape[3], C - length))
        caches[:, b, :, length : length + count] = new_kv[:, b, :, :count]


class KvAppender:
    """Appends on one device.

    Args:
        kernel: the loaded kernel; None where the host is to copy.
    """

    def __init__(self, device: Device, kernel: Any) -> None:
        self._device, self._kernel = device, kernel

    def append(
        self,
        new_kv: Sequence[DeviceArray],
        caches: Sequence[DeviceArray],
        lengths: DeviceArray,
        host_lengths: npt.NDArray[np.int32],
    ) -> None:
        """Enqueue appending.

        Args:
            new_kv: n of (B, H, L, P).
            caches: n of (B, H, C, P).
            lengths: (B,) int32 tokens in the caches before.
            host_lengths: the same on the host, where copies may stand for the kernel.
        """
        if self._kernel is None:
            self._copy(new_kv, caches, host_lengths)
            return
        B, H, L, _ = new_kv[0].shape
        words = new_kv[0].nbytes // (B * H * L) // _WORD_BYTES
        sizes = [np.int32(size) for size in (H, L, caches[0].shape[2], words)]
        apart = [np.int64(_apart(arrays) // _WORD_BYTES) for arrays in (new_kv, caches)]
        arguments = [new_kv[0].address, lengths.address, *sizes, *apart, caches[0].address]
        self._device.launch(self._kernel, (B * H * L, len(caches), 1), THREADS, 0, arguments)

    def _copy(
        self, new_kv: Sequence[DeviceArray], caches: Sequence[DeviceArray], lengths: npt.NDArray[np.int32]
    ) -> None:
        for source, target in zip(new_kv, caches, strict=True):
            B, H, L, P = source.shape
            heads, capacity = B * H, target.shape[2]
            given = DeviceArray.at(source.memory, _offset(source), source.dtype, (heads * L, P))
            whole = DeviceArray.at(target.memory, _offset(target), target.dtype, (heads * capacity, P))
            for head in range(heads):
                length = int(lengths[head // H])
                count = max(0, min(L, capacity - length))
                self._device.copy(whole.part(head * capacity + length, count), given.part(head * L, count))


def _apart(arrays: Sequence[DeviceArray]) -> int:
    """Return the bytes from each array to the next."""
    addresses = [array.address for array in arrays]
    distances = {after - before for before, after in itertools.pairwise(addresses)}
    assert len(distances) <= 1, "equal tensors are packed at equal distances"
    return distances.pop() if distances else 0


def _offset(array: DeviceArray) -> int:
    return array.address - array.memory.address
