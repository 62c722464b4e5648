"""Dtypes by name: everywhere the names are numpy's, with "bfloat16" and the eight-bit floats beside them.

Beside them stand the names that TensorRT and Triton have for the dtypes of tensors in graphs.
"""

from collections.abc import Mapping, Sequence
from math import prod
from typing import Any, Final, NamedTuple

import ml_dtypes
import numpy as np

__all__ = [
    "array_dtype",
    "array_shape",
    "is_packed",
    "numpy_dtype",
    "stored_bytes",
    "tensorrt_dtypes",
    "tensorrt_format",
    "tensorrt_name",
    "triton_pointer",
]

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
    ml_dtypes.float8_e8m0fnu,
    ml_dtypes.float4_e2m1fn,
    ml_dtypes.int4,
    np.float16,
    ml_dtypes.bfloat16,
    np.float32,
    np.float64,
)
_BY_NAME: dict[str, np.dtype[Any]] = {np.dtype(kind).name: np.dtype(kind) for kind in _KNOWN}


class _Foreign(NamedTuple):
    """What others call a dtype: `tensorrt.DataType`, TensorRT's lists of formats, Triton's signatures."""

    tensorrt: str
    tensorrt_format: str
    triton: str


_FOREIGN: Final[Mapping[str, _Foreign]] = {
    "float32": _Foreign("FLOAT", "FP32", "fp32"),
    "float16": _Foreign("HALF", "FP16", "fp16"),
    "bfloat16": _Foreign("BF16", "BF16", "bf16"),
    "int64": _Foreign("INT64", "INT64", "i64"),
    "int32": _Foreign("INT32", "INT32", "i32"),
    "int8": _Foreign("INT8", "INT8", "i8"),
    "uint8": _Foreign("UINT8", "UINT8", "u8"),
    "bool": _Foreign("BOOL", "BOOL", "i1"),
    # Kernels take as bytes what not every GPU knows.
    "float8_e4m3fn": _Foreign("FP8", "FP8", "u8"),
    "float4_e2m1fn": _Foreign("FP4", "FP4", "u8"),
    "int4": _Foreign("INT4", "INT4", "u8"),
}


def numpy_dtype(name: str) -> np.dtype[Any]:
    """Return the numpy dtype called `name` ("float32", "bfloat16", …); `KeyError` for any other name."""
    return _BY_NAME[name]


def is_packed(name: str) -> bool:
    """Whether elements of a dtype are kept two a byte, the even one of a pair in the low half."""
    return name in ("float4_e2m1fn", "int4")


def array_dtype(name: str) -> str:
    """Return the dtype of an array that holds a tensor of this one: bytes, where two numbers are in each."""
    return "uint8" if is_packed(name) else name


def array_shape(name: str, shape: Sequence[Any]) -> tuple[Any, ...]:
    """Return the shape of that array, for a tensor whose shape counts numbers."""
    return (*shape[:-1], shape[-1] // 2) if is_packed(name) else tuple(shape)


def stored_bytes(name: str, shape: Sequence[int]) -> int:
    """Return the bytes of a tensor of this dtype and shape in memory and on disk."""
    count = prod(shape)
    return count // 2 if is_packed(name) else count * numpy_dtype(name).itemsize


def tensorrt_dtypes() -> tuple[str, ...]:
    """Return the dtypes that TensorRT has a name for."""
    return tuple(_FOREIGN)


def tensorrt_name(name: str) -> str:
    """Return the member of `tensorrt.DataType` for a dtype: "FLOAT" for "float32"."""
    return _FOREIGN[name].tensorrt


def tensorrt_format(name: str) -> str:
    """Return what a plugin calls a dtype in the list of formats that it takes: "FP32" for "float32"."""
    return _FOREIGN[name].tensorrt_format


def triton_pointer(name: str) -> str:
    """Return the type of a pointer to a dtype in a Triton kernel's signature: "*fp32" for "float32"."""
    return f"*{_FOREIGN[name].triton}"
