"""Dtypes by name, as numpy, TensorRT and Triton call them."""

import numpy as np
import pytest

from ttc.base.dtypes import (
    is_packed,
    numpy_dtype,
    stored_bytes,
    tensorrt_format,
    tensorrt_name,
    triton_pointer,
)
from ttc.base.names import COMPUTE_DTYPES


@pytest.mark.parametrize("name", [*COMPUTE_DTYPES, "int64", "int32", "int8", "uint8", "bool"])
def test_a_name_is_the_same_everywhere(name):
    assert numpy_dtype(name).name == name
    bits = 1 if name == "bool" else 8 * numpy_dtype(name).itemsize
    assert triton_pointer(name).startswith("*")
    assert triton_pointer(name).endswith(str(bits))
    assert tensorrt_name(name).isupper()


def test_names_of_tensorrt():
    assert [tensorrt_name(name) for name in COMPUTE_DTYPES] == ["FLOAT", "HALF", "BF16"]
    assert [tensorrt_format(name) for name in COMPUTE_DTYPES] == ["FP32", "FP16", "BF16"]


def test_an_unknown_dtype_is_named():
    with pytest.raises(KeyError, match="complex64"):
        tensorrt_name(np.dtype(np.complex64).name)


def test_bytes_of_a_tensor():
    assert stored_bytes("bfloat16", (3, 4)) == 24
    assert stored_bytes("float8_e4m3fn", (3, 4)) == 12
    assert [stored_bytes(name, (3, 4)) for name in ("int4", "float4_e2m1fn")] == [6, 6]
    assert not is_packed("float8_e8m0fnu")
