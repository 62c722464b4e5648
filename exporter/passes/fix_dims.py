"""Turn letters whose size is known into numbers, in every shape.

1. A dimension of an input, of a node's output or of a graph output that is made of known letters becomes the
   number; one that also has other letters keeps those ("C + L" with L = 16 becomes "C + 16").
2. Inside function bodies nothing changes: they carry no shapes.

A network whose length is fixed is half as large as one for a range of lengths: TensorRT-RTX writes the source
of a kernel that a range reaches once for each layer, that of most others once.
"""

from collections.abc import Mapping

import onnx_ir as ir

from ttc.base.dims import substitute
from ttc.exporter.passes.shapes import shape_of

__all__ = ["fix_dims"]


def fix_dims(model: ir.Model, sizes: Mapping[str, int]) -> bool:
    """Apply the rules above for these sizes of letters; return whether a shape changed."""
    graph = model.graph
    values = [*graph.inputs, *(value for node in graph for value in node.outputs)]
    changed = False
    for value in values:
        if value.shape is None or value.shape.is_static():
            continue
        before = shape_of(value)
        after = tuple(substitute(dim, sizes) for dim in before)
        if after != before:
            value.shape = ir.Shape(after)
            changed = True
    return changed
