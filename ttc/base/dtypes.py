"""Dtypes by name: everywhere the names are numpy's, with "bfloat16" and the eight-bit floats beside them."""

from typing import Any

import ml_dtypes
import numpy as np

__all__ = ["numpy_dtype"]

_KNOWN = (
    np.bool_,
    np.uint8,
    np.int8,
    np.uint16,
    np.int16,
    np.uint32,
    np.int32,
    np.uint64,
    np.int64,
    ml_dtypes.float8_e4m3fn,
    ml_dtypes.float8_e5m2,
    np.float16,
    ml_dtypes.bfloat16,
    np.float32,
    np.float64,
)
_BY_NAME: dict[str, np.dtype[Any]] = {np.dtype(kind).name: np.dtype(kind) for kind in _KNOWN}


def numpy_dtype(name: str) -> np.dtype[Any]:
    """Return the numpy dtype called `name` ("float32", "bfloat16", …); `KeyError` for any other name."""
    return _BY_NAME[name]
