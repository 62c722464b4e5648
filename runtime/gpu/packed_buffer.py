"""Small tensors side by side in one piece of memory, so that one copy moves them all between host and
device.
"""

from collections.abc import Mapping
from math import prod
from typing import Any, Protocol

import numpy as np
import numpy.typing as npt

from ttc.base.dims import sizes_of
from ttc.base.dtypes import numpy_dtype
from ttc.runtime.gpu.device import DeviceArray, Memory, Scope, aligned
from ttc.runtime.gpu.executor import Specs

__all__ = ["Allocator", "PackedBuffer", "pack"]


class Allocator(Protocol):
    """A scope, or what stands for one."""

    def allocate(self, nbytes: int) -> Memory:
        """Return a block of at least so many bytes."""


def pack(
    scope: Allocator, specs: Specs, sizes: Mapping[str, int]
) -> tuple[DeviceArray, dict[str, DeviceArray]]:
    """Return one block of memory as bytes, and the tensors that lie in it, each aligned."""
    shapes = {name: sizes_of(shape, sizes) for name, (_, shape) in specs.items()}
    offsets, end = {}, 0
    for name, (dtype, _) in specs.items():
        offsets[name] = end
        end = aligned(end + prod(shapes[name]) * numpy_dtype(dtype).itemsize)
    memory: Memory = scope.allocate(end)
    tensors = {
        name: DeviceArray.at(memory, offsets[name], dtype, shapes[name]) for name, (dtype, _) in specs.items()
    }
    return DeviceArray.at(memory, 0, "uint8", (end,)), tensors


class PackedBuffer:
    """Small tensors on the device and their copy in pinned memory, each in one piece.

    Args:
        specs: name → dtype and shape, in numbers or in the letters of `sizes`.

    Attributes:
        device: name → tensor on the device.
        host: name → view of the pinned copy, to write before `upload` and to read after `download`.
    """

    def __init__(self, scope: Scope, specs: Specs, sizes: Mapping[str, int]) -> None:
        self._device = scope.device
        self.whole, self.device = pack(scope, specs, sizes)
        self._pinned = self._device.pinned(self.whole.nbytes)
        self.host: dict[str, npt.NDArray[Any]] = {}
        for name, array in self.device.items():
            start = array.address - self.whole.address
            raw = self._pinned[start : start + array.nbytes]
            self.host[name] = raw.view(numpy_dtype(array.dtype)).reshape(array.shape)

    def upload(self, **values: npt.ArrayLike) -> None:
        """Set these tensors, every one of the buffer, with one copy."""
        assert values.keys() == self.host.keys(), f"{sorted(values)} given, {sorted(self.host)} expected"
        for name, value in values.items():
            self.host[name][...] = np.asarray(value)
        self._device.upload(self.whole, self._pinned)

    def download(self) -> dict[str, npt.NDArray[Any]]:
        """Return copies of all tensors, with one copy from the device; waits for it."""
        self._device.download(self._pinned, self.whole)
        return {name: view.copy() for name, view in self.host.items()}
