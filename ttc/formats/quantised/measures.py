"""Numbers that say how well, or whether, a quantised matrix holds what it should."""

import functools
from collections.abc import Mapping
from typing import Any, Final

import numpy as np
import numpy.typing as npt

from ttc.base.dtypes import numpy_dtype
from ttc.formats.quantised.nibbles import E2M1_VALUES, unpack

__all__ = ["TOPS", "all_numbers", "code_values", "relative_error", "share_at_top"]

Array = npt.NDArray[Any]
Floats = npt.NDArray[np.float32]

# The largest magnitude of a format's codes that an encoder puts a largest weight at.
TOPS: Final[Mapping[str, float]] = {"int8": 127, "fp8": 448, "nvfp4": 6, "int4": 7, "mxfp4": 6}


def all_numbers(stored: Array) -> bool:
    """Return whether every code or scale is a number; float8 codes are looked at as they are, since there are
    many.
    """
    if stored.dtype == numpy_dtype("float8_e4m3fn"):
        return not bool(((stored.view(np.uint8) & 0x7F) == 0x7F).any())
    if stored.dtype.kind == "f" or stored.dtype == numpy_dtype("bfloat16"):
        return bool(np.isfinite(stored).all())
    return True


def code_values(word: str, stored: Mapping[str, Array]) -> Floats:
    """Return what the codes of a matrix stand for, without any scale: float32 (N, K)."""
    codes = stored["weight"]
    if word in ("nvfp4", "mxfp4"):
        return E2M1_VALUES[unpack(codes)]
    if word == "int4":
        signed: Floats = ((unpack(codes).view(np.int8) ^ 8) - 8).astype(np.float32)
        return signed
    made: Floats = codes.astype(np.float32)
    return made


def share_at_top(word: str, stored: Mapping[str, Array]) -> float:
    """Return the share of a matrix' codes that lie at an end of their range."""
    codes = stored["weight"]
    count = int(_top_codes(word)[codes.view(np.uint8)].sum(dtype=np.int64))
    return count / (codes.size * (2 if codes.dtype == np.uint8 else 1))


@functools.cache
def _top_codes(word: str) -> npt.NDArray[np.uint8]:
    """Return how many of the codes in each byte lie at an end of their range, uint8 (256)."""
    every = np.arange(256, dtype=np.uint8).reshape(256, 1)
    dtype = {"int8": "int8", "fp8": "float8_e4m3fn"}.get(word, "uint8")
    values = code_values(word, {"weight": every.view(numpy_dtype(dtype))})
    counts: npt.NDArray[np.uint8] = (np.abs(values) >= TOPS[word]).sum(axis=1).astype(np.uint8)
    return counts


def relative_error(decoded: Floats, matrix: Array) -> float:
    """Return ‖decoded − matrix‖ / ‖matrix‖ (Frobenius), 0 where both are zero and infinity where only the
    matrix is.

    Args:
        decoded: float32 (N, K); used as memory for the difference.
        matrix: (N, K), of a floating dtype.
    """
    wide = matrix.astype(np.float32)
    np.subtract(decoded, wide, out=decoded)
    # Of the largest weight's order, so that no square leaves the range of float32.
    largest = max(np.abs(wide).max(initial=0), np.abs(decoded).max(initial=0))
    if largest == 0:
        return 0.0
    unit = np.float32(2.0 ** np.floor(np.log2(largest)))
    wide /= unit
    decoded /= unit
    difference, size = (np.einsum("nk,nk->n", a, a).sum(dtype=np.float64) for a in (decoded, wide))
    return float("inf") if size == 0 else float(np.sqrt(difference / size))
