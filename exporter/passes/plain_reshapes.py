"""Give Reshapes a constant target instead of one that is computed from shapes, where the graph knows enough.

1. A Reshape takes a constant target if every dimension of its output, but for at most one (−1), is a number
   (which the target then holds) or the input's dimension of the same index (0, which copies it).
2. Expand and everything else stay.
3. Nodes that nobody reads any more are removed.

The arithmetic does not change. TensorRT then sees no shape tensors, which cost it layers and build time.
"""

import numpy as np
import onnx_ir as ir

from ttc.base.dims import Dim
from ttc.exporter.passes.shapes import shape_of
from ttc.model.rewrites import remove_unread_nodes

__all__ = ["plain_reshapes"]


def plain_reshapes(model: ir.Model) -> bool:
    """Apply the rules above; return whether a Reshape changed."""
    graph = model.graph
    constants: dict[tuple[int, ...], ir.Value] = {}
    changed = False
    for node in graph:
        if node.op_type != "Reshape" or node.domain not in ("", "ai.onnx"):
            continue
        source, target, output = node.inputs[0], node.inputs[1], node.outputs[0]
        if source is None or target is None or target.const_value is not None:
            continue
        if source.shape is None or output.shape is None:
            continue
        plain = _plain(shape_of(source), shape_of(output))
        if plain is None:
            continue
        if plain not in constants:
            constants[plain] = _constant(graph, plain)
        node.replace_input_with(1, constants[plain])
        node.attributes.pop("allowzero", None)  # 0 in the target now means: as in the input
        changed = True
    if changed:
        _remove_unread(graph)
    return changed


def _plain(source: tuple[Dim, ...], output: tuple[Dim, ...]) -> tuple[int, ...] | None:
    """Return the constant target, or None where more than one dimension would be open."""
    target = []
    for i, dim in enumerate(output):
        if isinstance(dim, int):
            if dim == 0:
                return None
            target.append(dim)
        elif i < len(source) and source[i] == dim:
            target.append(0)
        else:
            target.append(-1)
    return None if target.count(-1) > 1 else tuple(target)


def _constant(graph: ir.Graph, target: tuple[int, ...]) -> ir.Value:
    name = "constant.reshape." + "x".join(map(str, target))
    tensor = ir.tensor(np.array(target, np.int64), name=name)
    value = ir.Value(
        name=name, type=ir.TensorType(ir.DataType.INT64), shape=ir.Shape([len(target)]), const_value=tensor
    )
    graph.register_initializer(value)
    return value


def _remove_unread(graph: ir.Graph) -> None:
    remove_unread_nodes(graph)
    unread = [name for name, value in graph.initializers.items() if not value.uses()]
    for name in unread:
        if not graph.initializers[name].is_graph_output():
            del graph.initializers[name]
