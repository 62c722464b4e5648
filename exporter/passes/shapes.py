"""Dimensions of ONNX values as `ttc.base.dims` writes them."""

import onnx_ir as ir

from ttc.base.dims import Dim, Shape
from ttc.errors import InputError

__all__ = ["shape_of"]


def shape_of(value: ir.Value) -> Shape:
    """The shape of a value, symbolic dimensions as text; `InputError` for a dimension without a name."""
    if value.shape is None:
        raise InputError(
            f"tensor {value.name!r} has no shape in the graph; run ONNX shape inference on it first"
        )
    dims: list[Dim] = []
    for dim in value.shape:
        if isinstance(dim, int):
            dims.append(dim)
        elif dim.value is not None:
            dims.append(dim.value)
        else:
            raise InputError(f"tensor {value.name!r} has a dimension without a name; name it in the graph")
    return tuple(dims)
