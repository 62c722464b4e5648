"""Arrays as ONNX Runtime's values and back, bfloat16 among them, which numpy does not have: by its bits."""

import ctypes
from collections.abc import Sequence
from typing import Any

import ml_dtypes
import numpy as np
import numpy.typing as npt
import onnx_ir as ir
from onnxruntime import OrtValue

__all__ = ["array_of", "element_type", "value_of"]

_BFLOAT16 = np.dtype(ml_dtypes.bfloat16)


def value_of(array: npt.NDArray[Any]) -> OrtValue:
    """Return an array's numbers as a value in the host's memory, which is the array's and keeps it alive."""
    if array.dtype == _BFLOAT16:
        return OrtValue.ortvalue_from_numpy_with_onnx_type(array.view(np.uint16), element_type("bfloat16"))
    return OrtValue.ortvalue_from_numpy(array)


def element_type(dtype: str) -> int:
    """Return ONNX's number of a dtype."""
    return int(ir.DataType.from_numpy(np.dtype(dtype)))


def array_of(value: OrtValue, shape: Sequence[int], dtype: str) -> npt.NDArray[Any]:
    """Return a copy of a value that lies in the host's memory."""
    wanted = np.dtype(dtype)
    raw = (ctypes.c_uint8 * (int(np.prod(shape)) * wanted.itemsize)).from_address(value.data_ptr())
    return np.frombuffer(bytes(raw), wanted).reshape(shape)
