"""Four-bit codes, two a byte: the even one of a pair in the low half."""

from typing import Any, Final

import ml_dtypes
import numpy as np
import numpy.typing as npt

__all__ = ["E2M1_VALUES", "pack", "unpack"]

Array = npt.NDArray[Any]

# e2m1 by code: 0, ½, 1, 1½, 2, 3, 4, 6, then the negatives.
E2M1_VALUES: Final[npt.NDArray[np.float32]] = (
    np.arange(16, dtype=np.uint8).view(ml_dtypes.float4_e2m1fn).astype(np.float32)
)


def pack(codes: Array) -> Array:
    """Return codes (…, K) uint8, of which the low halves count, as uint8 (…, K/2)."""
    made: Array = (codes[..., 0::2] & 0xF) | (codes[..., 1::2] << 4)
    return made


def unpack(packed: Array) -> Array:
    """Return the codes 0 … 15 of `packed` uint8 (…, K/2) as uint8 (…, K)."""
    codes = np.empty((*packed.shape[:-1], 2 * packed.shape[-1]), np.uint8)
    codes[..., 0::2] = packed & 0xF
    codes[..., 1::2] = packed >> 4
    return codes
