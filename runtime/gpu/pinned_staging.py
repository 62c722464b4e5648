"""Large arrays between device and host, through a staging buffer in pinned memory of bounded size."""

from collections.abc import Iterator
from typing import Any

import numpy as np
import numpy.typing as npt

from ttc.base.dtypes import numpy_dtype
from ttc.runtime.gpu.device import Device, DeviceArray

__all__ = ["PinnedStaging"]

MOST_BYTES = 64 * 2**20


class PinnedStaging:
    """Pinned memory as large as the largest array so far; larger arrays go through it piece by piece. Used by
    one thread at a time.

    Args:
        most: its largest size in bytes.
    """

    def __init__(self, device: Device, most: int = MOST_BYTES) -> None:
        self._device, self._most = device, most
        self._pinned: npt.NDArray[np.uint8] | None = None

    def read(self, array: DeviceArray) -> npt.NDArray[Any]:
        """Return a copy of the array; waits for what writes it."""
        raw = np.empty(array.nbytes, np.uint8)
        for start, part, pinned in self._pieces(array):
            self._device.download(pinned, part)
            raw[start : start + part.nbytes] = pinned
        return raw.view(numpy_dtype(array.dtype)).reshape(array.shape)

    def write(self, array: DeviceArray, values: npt.NDArray[Any]) -> None:
        """Fill the array with values of its shape, converted to its dtype; waits for the copy."""
        assert values.shape == array.shape, f"{values.shape} given, {array.shape} expected"
        raw = np.ascontiguousarray(values, numpy_dtype(array.dtype)).reshape(-1).view(np.uint8)
        for start, part, pinned in self._pieces(array):
            pinned[...] = raw[start : start + part.nbytes]
            self._device.upload(part, pinned)
            self._device.wait()

    def close(self) -> None:
        """Give the memory back."""
        self._pinned = None

    def _pieces(self, array: DeviceArray) -> Iterator[tuple[int, DeviceArray, npt.NDArray[np.uint8]]]:
        """Yield the first byte of each piece, the piece on the device, and pinned memory of its size."""
        needed = min(array.nbytes, self._most)
        if self._pinned is None or self._pinned.nbytes < needed:
            self._pinned = None  # before the next is asked for: the two need not fit together
            self._pinned = self._device.pinned(needed)
        offset = array.address - array.memory.address
        for start in range(0, array.nbytes, self._most):
            nbytes = min(self._most, array.nbytes - start)
            part = DeviceArray.at(array.memory, offset + start, "uint8", (nbytes,))
            yield start, part, self._pinned[:nbytes]
