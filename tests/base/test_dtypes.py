"""Dtypes by name, as numpy, TensorRT and Triton call them."""

import numpy as np
import pytest

from ttc.base.dtypes import numpy_dtype, tensorrt_format, tensorrt_name, triton_pointer
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
