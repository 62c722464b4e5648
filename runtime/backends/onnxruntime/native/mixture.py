"""A mixture of experts as two products, where its experts are small and few.

All experts, the shared one among them, stand side by side in one matrix up and one down; between them every
expert's part is multiplied by the token's weight for it, which is 0 for one that was not chosen and 1 for the
shared one. That computes E experts for a token and not K, in products so much larger that it takes less time
than anything that picks out rows (`benchmarks/against_commit.py` compares commits), as long as the weights of
the experts that were not chosen come out of the processor's caches.
"""

import onnx_ir as ir

from ttc.plugins.ops import DOMAIN
from ttc.runtime.backends.onnxruntime.native.rewriting import MICROSOFT, Rewriter, fixed_dims

__all__ = ["mixed", "mixture_residual"]

# Bytes of a layer's experts, and experts for each chosen one, up to which all are computed for all.
_MOST_BYTES = 8 * 2**20
_MOST_EXPERTS = 8
# The score of an expert that was not chosen.
_NOT_CHOSEN = -1e30


def mixture_residual(rewriter: Rewriter, node: ir.Node) -> None:
    """Replace `MixtureResidual`, and the mixture before it where it is small."""
    x, routed, shared = node.inputs
    out = mixed(rewriter, node, routed, shared)
    assert x is not None, "an op with all its inputs"
    out.shape, out.type = x.shape, x.type
    rewriter.replace(node, [rewriter.before(node).add("Add", [x, out])])


def mixed(rewriter: Rewriter, node: ir.Node, routed: ir.Value | None, shared: ir.Value | None) -> ir.Value:
    """Return the sum of the routed experts' output and the shared one's, which goes into `node`."""
    assert routed is not None, "an op with all its inputs"
    assert shared is not None, "an op with all its inputs"
    together = _together(rewriter, routed, shared)
    return together or rewriter.before(node).add("Add", [routed, shared])


def _together(rewriter: Rewriter, routed: ir.Value, shared: ir.Value) -> ir.Value | None:
    """Return the mixture as two products; None where it is too large for that, or is not made as ours are."""
    experts = _made_by(_made_by(routed, "Reshape"), "MoeExperts")
    routing = None if experts is None else _made_by(experts.inputs[4], "MoeRouting")
    gate = None if routing is None else _made_by(routing.inputs[0], "Gemm")
    down_product = _made_by(shared, "MatMul")
    activation = _made_by(down_product, "SquaredRelu")
    up_product = _made_by(activation, "MatMul")
    if experts is None or routing is None or gate is None or down_product is None or up_product is None:
        return None
    values = {name: attribute.value for name, attribute in routing.attributes.items()}
    x, up, down = experts.inputs[:3]
    count, inner, width = fixed_dims(up)
    own = fixed_dims(up_product.inputs[1])[-1]
    too_large = (
        4 * 2 * count * inner * width > _MOST_BYTES
        or count > _MOST_EXPERTS * values["K"]
        or own % inner
        or values["n_group"] > 1
        or not values["norm_topk_prob"]
    )
    if too_large:
        return None
    parts = count + own // inner

    made = rewriter.before(experts, "MoeRouting")
    scores = made.add("MatMul", [x, made.add("Transpose", [gate.inputs[1]], perm=[1, 0])])
    chosen = made.add(
        "MoEGroupRouter",
        [scores, routing.inputs[1]],
        MICROSOFT,
        top_k=values["K"],
        n_group=1,
        topk_group=1,
        group_topk=1,
        router_sentinel=_NOT_CHOSEN,
    )
    weights = made.add("Softmax", [chosen], axis=-1)
    weights = made.add("Pad", [weights, made.ints(0, 0, 0, parts - count), made.scalar(1.0)])
    weights = made.add("Unsqueeze", [weights, made.ints(2)])

    made = rewriter.before(experts, "MoeUp")
    ups = made.add("Reshape", [up, made.ints(-1, width)])
    ups = made.add("Concat", [made.add("Transpose", [ups], perm=[1, 0]), up_product.inputs[1]], axis=1)
    positive = made.add("Relu", [made.add("MatMul", [x, ups])])
    activated = made.add("Mul", [positive, positive])
    activated = made.add("Reshape", [activated, made.ints(0, parts, inner)])
    activated = made.add("Mul", [activated, weights])
    activated = made.add("Reshape", [activated, made.ints(0, parts * inner)])

    made = rewriter.before(experts, "MoeDown")
    downs = made.add("Reshape", [made.add("Transpose", [down], perm=[0, 2, 1]), made.ints(-1, width)])
    downs = made.add("Mul", [downs, made.scalar(values["routed_scaling_factor"])])
    downs = made.add("Concat", [downs, down_product.inputs[1]], axis=0)
    flat = made.add("MatMul", [activated, downs])
    source = up_product.inputs[0]
    return made.add("Reshape", [flat, made.add("Shape", [source])])


def _made_by(value: "ir.Value | ir.Node | None", op: str) -> ir.Node | None:
    """Return the node that makes a value, or a node's first input, if it is of this operator."""
    if isinstance(value, ir.Node):
        value = value.inputs[0]
    node = None if value is None else value.producer()
    return node if node is not None and node.op_type == op and node.domain in ("", DOMAIN) else None
