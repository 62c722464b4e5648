"""RMSNorm, with the sum before it where there is one."""

import onnx_ir as ir

from ttc.runtime.backends.onnxruntime.native.rewriting import MICROSOFT, Nodes, Rewriter, take_over

__all__ = ["rms_norm", "stream_norm"]


def stream_norm(rewriter: Rewriter, node: ir.Node) -> None:
    """Replace `StreamNorm`, and what adds up its input."""
    rewriter.replace(node, [rms_norm(rewriter, node, node.inputs[0], node.inputs[1])])


def rms_norm(rewriter: Rewriter, node: ir.Node, x: ir.Value | None, weight: ir.Value | None) -> ir.Value:
    """Return the norm of x with the node's epsilon, made before it, or where x is added up."""
    assert x is not None, "an op with all its inputs"
    epsilon = node.attributes["epsilon"].as_float()
    added = x.producer()
    if added is None or added.op_type != "Add" or not _same_shapes(added):
        made = rewriter.before(node)
        return made.add("SimplifiedLayerNormalization", [x, weight], axis=-1, epsilon=epsilon, stash_type=1)
    made = Nodes(rewriter, added, node.op_type)
    normed, mean, deviation, total = made.add_many(
        "SkipSimplifiedLayerNormalization", [*added.inputs, weight], 4, MICROSOFT, epsilon=epsilon
    )
    mean.name = deviation.name = ""  # left out
    take_over(x, total)
    rewriter.graph.remove(added, safe=True)
    return normed


def _same_shapes(added: ir.Node) -> bool:
    """Whether both terms have the shape of the sum, as the operator with the sum in it wants them."""
    shapes = [None if value is None else value.shape for value in (*added.inputs, added.outputs[0])]
    return None not in shapes and all(shape == shapes[0] and len(shape or ()) == 3 for shape in shapes)
