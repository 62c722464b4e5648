"""Experts that compute only where a token chose them: ONNX Runtime's own operator in place of `MoeExperts`.

The body of `MoeExperts` applies every expert to every token (`ttc.plugins.moe_experts.function`), which is
E/K times the arithmetic. `com.microsoft.MoE` computes the chosen ones, but knows neither relu² nor weights
from outside. Both can be said in its own words, up to rounding:

- relu(g)² = g · sigmoid(α·g) · g for large α: SwiGLU whose two halves are the same product. So `up` is given
  with every row twice, which doubles its memory.
- It takes the softmax over the K largest scores as weights. Of log w that is w / Σw, and the result is
  multiplied by Σw afterwards, so a NaN among the weights comes through as well.
"""

import numpy as np
import numpy.typing as npt
import onnx_ir as ir

from ttc.plugins.moe_experts import MOE_EXPERTS
from ttc.plugins.ops import DOMAIN
from ttc.runtime.backends.onnxruntime.native.rewriting import MICROSOFT, Nodes, Rewriter, fixed_dims

__all__ = ["rows_twice", "sparsify_experts"]

# Steep enough that the sigmoid is 0 or 1 wherever relu² is not negligible.
_STEEPNESS = 1e4
# What no chosen expert's score falls below, and that of the others.
_SMALLEST, _NOT_CHOSEN = 1e-38, -1e30


def sparsify_experts(model: ir.Model, experts_per_token: int) -> list[str]:
    """Replace every call of `MoeExperts` in a float32 graph, in place.

    Returns:
        Names of the weights that are to be given with their rows twice (`rows_twice`).
    """
    rewriter, doubled = Rewriter(model), []
    for node in [n for n in model.graph if (n.domain, n.op_type) == (DOMAIN, MOE_EXPERTS.name)]:
        taken = dict(zip((spec.name for spec in MOE_EXPERTS.inputs), node.inputs, strict=True))
        rewriter.replace(node, [_sparse(rewriter.before(node), taken, experts_per_token)])
        up = taken["up"]
        assert up is not None, "an op with all its inputs"
        doubled.append(_double(up))
    if doubled:
        model.opset_imports[MICROSOFT] = 1
    return doubled


def rows_twice(up: npt.NDArray[np.float32]) -> npt.NDArray[np.float32]:
    """Return (E, 2·I, D) of (E, I, D): row 2i and row 2i + 1 are row i."""
    return np.repeat(up, 2, axis=1)


def _sparse(made: Nodes, taken: dict[str, ir.Value | None], experts_per_token: int) -> ir.Value:
    """Add the nodes of one layer; return the experts' output (T, D)."""
    up, weights = taken["up"], taken["weights"]
    assert up is not None, "an op with all its inputs"
    tokens = made.add("Shape", [taken["expert_ids"]], start=0, end=1)
    everywhere = made.add("Concat", [tokens, made.ints(fixed_dims(up)[0])], axis=0)
    nothing = made.add("Expand", [made.scalar(_NOT_CHOSEN), everywhere])
    positive = made.add("Max", [weights, made.scalar(_SMALLEST)])
    chosen = made.add("Cast", [taken["expert_ids"]], to=int(ir.DataType.INT64))
    scores = made.add("ScatterElements", [nothing, chosen, made.add("Log", [positive])], axis=1)
    mixed = made.add(
        "MoE",
        [taken["x"], scores, up, None, taken["down"]],
        MICROSOFT,
        k=experts_per_token,
        activation_type="swiglu",
        swiglu_fusion=1,
        activation_alpha=_STEEPNESS,
        activation_beta=0.0,
        normalize_routing_weights=1,
    )
    total = made.add("ReduceSum", [weights, made.ints(1)], keepdims=1)
    return made.add("Mul", [mixed, total])


def _double(up: ir.Value) -> str:
    """Give a weight without content the shape of `rows_twice`; return its name."""
    experts, width, hidden = fixed_dims(up)
    up.shape = ir.Shape([experts, 2 * width, hidden])
    tensor = up.const_value
    assert isinstance(tensor, ir.ExternalTensor), "weights come from outside"
    up.const_value = ir.ExternalTensor(
        tensor.location, 0, None, tensor.dtype, shape=up.shape, name=tensor.name, base_dir=""
    )
    return str(up.name)
