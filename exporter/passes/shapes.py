"""Dimensions of ONNX values as `ttc.base.dims` writes them, and dimensions that can be reckoned with."""

from typing import Any

import onnx_ir as ir

from ttc.base.dims import Dim, Shape
from ttc.errors import InputError

__all__ = ["Symbol", "shape_of"]


class Symbol(str):
    """A dimension that can be multiplied and added, for `OpSpec.output_shapes`."""

    __slots__ = ()

    def __mul__(self, other: Any) -> Any:
        return self if other == 1 else Symbol(f"{self}*{other}")

    def __add__(self, other: Any) -> Any:
        return self if other == 0 else Symbol(f"{self} + {other}")

    __rmul__, __radd__ = __mul__, __add__


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
