"""Replace composite ops by their parts, so that every `ttc` node left is one kernel launch that pays.

1. Glue (`OpSpec.glue`) is replaced by its body: an engine's compiler merges it with the products around it,
   from which a plugin, or a cut, would part it.
2. A call of a function whose body holds nothing but `ttc` ops is replaced by its body; so is what that body
   calls.
3. The tensors between the parts get the dtypes and shapes that the ops' signatures give them.
"""

import numpy as np
import onnx_ir as ir
from onnx_ir.passes.common import InlinePass

from ttc.base.dims import Dim
from ttc.exporter.passes.inline_ops import inline_ops
from ttc.exporter.passes.shapes import shape_of
from ttc.plugins.ops import DOMAIN, OpSpec
from ttc.plugins.table import OPS, PRIMITIVE_OPS

__all__ = ["inline_composites"]

_GLUE = frozenset(op.name for op in OPS if op.glue)
_PRIMITIVES = {op.name: op for op in PRIMITIVE_OPS}


def inline_composites(model: ir.Model) -> bool:
    """Apply the rules above; return whether anything was inlined."""
    glued = inline_ops(model, _GLUE)
    changed = InlinePass(lambda function: all(node.domain == DOMAIN for node in function))(model).modified
    for node in model.graph:
        if node.domain == DOMAIN and node.op_type in _PRIMITIVES:
            _annotate(node, _PRIMITIVES[node.op_type])
    return bool(changed) or glued


def _annotate(node: ir.Node, op: OpSpec) -> None:
    """Set the dtypes and shapes of the outputs if they have none."""
    if all(value.type is not None and value.shape is not None for value in node.outputs):
        return
    inputs = [value for value in node.inputs if value is not None]
    dtypes = {spec.dtype: value.type for spec, value in zip(op.inputs, inputs, strict=True)}
    shapes = [shape_of(value) for value in inputs]
    attributes = {name: node.attributes[name].value for name in op.attributes}
    for spec, value, dims in zip(op.outputs, node.outputs, op.output_shapes(shapes, attributes), strict=True):
        plain: list[Dim] = [str(dim) if isinstance(dim, str) else int(dim) for dim in dims]
        value.shape = ir.Shape(plain)
        value.type = dtypes[spec.dtype] if spec.dtype == "compute" else _tensor_type(spec.dtype)


def _tensor_type(dtype: str) -> ir.TensorType:
    return ir.TensorType(ir.DataType.from_numpy(np.dtype(dtype)))
