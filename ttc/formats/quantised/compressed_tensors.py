"""Tensors of compressed-tensors turned into those of ModelOpt's layout, bytes kept where they can be."""

from typing import Any

import numpy as np
import numpy.typing as npt

__all__ = ["from_global_scale", "from_packed_int4"]

Array = npt.NDArray[Any]


def from_packed_int4(packed: Array) -> Array:
    """Return int4 codes as uint8 (N, K/2), of weight_packed int32 (N, K/8), which holds code + 8.

    The lowest bits come first along K, so in a little-endian file the halves of the bytes are in order; what
    is left is to turn code + 8 into two's complement, which flips the highest bit.
    """
    made: Array = packed.astype("<i4").view(np.uint8) ^ np.uint8(0x88)
    return made


def from_global_scale(scale: Array) -> Array:
    """Return weight_scale_2 float32 (), which multiplies, of weight_global_scale (1,), which divides."""
    return np.array(np.float32(1) / scale.astype(np.float32).reshape(()))
