"""Turn weight inputs into initializers; the inverse of `initializers_to_inputs`.

1. A graph input whose name is a weight's is removed and becomes an initializer of the same name, dtype and
   shape.
2. Its content is read when the file is written, one weight at a time.
3. Every other input stays, in its order.
"""

from collections.abc import Callable, Mapping
from functools import partial
from typing import Any

import numpy.typing as npt
import onnx_ir as ir

__all__ = ["ReadWeight", "inputs_to_initializers"]

ReadWeight = Callable[[], npt.NDArray[Any]]
# Their content is read two numbers in a byte, as the file has them too.
_IN_BYTES = (ir.DataType.FLOAT4E2M1, ir.DataType.INT4)


def inputs_to_initializers(model: ir.Model, weights: Mapping[str, ReadWeight]) -> bool:
    """Apply the rules above; return whether there was a weight to pack.

    Args:
        model: the graph, whose weights are inputs.
        weights: name → function that reads its content.
    """
    graph = model.graph
    packed = [value for value in graph.inputs if value.name in weights]
    for value in packed:
        name = str(value.name)
        assert value.dtype is not None, f"weight {name} has no dtype"
        assert value.shape is not None, f"weight {name} has no shape"
        value.const_value = ir.LazyTensor(
            partial(_read, weights[name], name, value.dtype, value.shape),
            dtype=value.dtype,
            shape=ir.Shape(value.shape),
            name=name,
        )
        graph.inputs.remove(value)
        graph.register_initializer(value)
    return bool(packed)


def _read(read: ReadWeight, name: str, dtype: ir.DataType, shape: ir.Shape) -> ir.TensorProtocol:
    if dtype in _IN_BYTES:
        return ir.PackedTensor(read().reshape(-1), dtype, shape=shape, name=name)
    return ir.Tensor(read(), name=name)
