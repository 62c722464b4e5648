"""Mamba-2 in ONNX Runtime's operators: its scan is linear attention, gated by a decay of each head.

With the step s = softplus(dt + bias) of a token, the state h (N × P) becomes exp(s·A)·h + b ⊗ (s·x), and the
token gives c·h + D·x: queries are c, keys b, values s·x, and the logarithm of the decay is s·A.
"""

import numpy as np
import onnx_ir as ir

from ttc.model.graphs import is_mamba_state, new_name
from ttc.runtime.backends.onnxruntime.native.norms import rms_norm
from ttc.runtime.backends.onnxruntime.native.rewriting import MICROSOFT, Nodes, Rewriter, fixed_dims

__all__ = ["gated_group_norm", "mamba_advance", "mamba_block_scan", "mamba_conv", "reorder_state"]


def mamba_block_scan(rewriter: Rewriter, node: ir.Node) -> None:
    """Replace `MambaBlockScan`, and the `MambaAdvance` after it: the operators give the new state too."""
    xbc, dt, conv_state, ssm_state, conv_weight, conv_bias, dt_bias, a_log, d = node.inputs
    assert conv_state is not None, "an op with all its inputs"
    activated, new_conv = _conv(rewriter.before(node, "MambaConv"), xbc, conv_weight, conv_bias, conv_state)
    made = rewriter.before(node, "MambaScan")
    x, y, new_ssm = _scan(made, activated, dt, ssm_state, dt_bias, a_log, node.attributes["G"].as_int())
    heads, width, _ = fixed_dims(ssm_state)
    skip = made.add("Reshape", [d, made.ints(heads, 1)])
    skip = made.add("Expand", [skip, made.ints(heads, width)])
    skip = made.add("Reshape", [skip, made.ints(heads * width)])
    y = made.add("Add", [y, made.add("Mul", [x, skip])])
    rewriter.replace(node, [y, activated])
    for user in [use.node for use in conv_state.uses()]:
        if user.op_type == "MambaAdvance":
            rewriter.replace(user, [new_conv, new_ssm])


def mamba_conv(rewriter: Rewriter, node: ir.Node) -> None:
    """Replace `MambaConv`."""
    xbc, conv_state, weight, bias = node.inputs
    rewriter.replace(node, [_conv(rewriter.before(node), xbc, weight, bias, conv_state)[0]])


def mamba_advance(rewriter: Rewriter, node: ir.Node) -> None:
    """Replace a `MambaAdvance` that stands alone: a token beyond those to commit has step 0, which leaves the
    state as it is.
    """
    xbc, activated, dt, conv_state, ssm_state, dt_bias, a_log, commit_len = node.inputs
    made = rewriter.before(node)
    count = made.add("Unsqueeze", [made.add("Cast", [commit_len], to=ir.DataType.INT64), made.ints(1)])
    tokens = made.add("Squeeze", [made.add("Shape", [xbc], start=1, end=2)])
    zero, one = (rewriter.constant(np.array(value, np.int64)) for value in (0, 1))
    is_due = made.add("Less", [made.add("Range", [zero, tokens, one]), count])
    due = made.add("Unsqueeze", [made.add("Cast", [is_due], to=ir.DataType.FLOAT), made.ints(2)])
    groups = node.attributes["G"].as_int()
    *_, new_ssm = _scan(made, activated, dt, ssm_state, dt_bias, a_log, groups, due)
    columns = made.add("Concat", [conv_state, xbc], axis=1)
    _, kept = fixed_dims(conv_state)
    places = made.add("Add", [count, made.ints(*range(kept))])
    places = made.add("Unsqueeze", [places, made.ints(2)])
    rewriter.replace(node, [made.add("GatherND", [columns, places], batch_dims=1), new_ssm])


def gated_group_norm(rewriter: Rewriter, node: ir.Node) -> None:
    """Replace `GatedGroupNorm`. Its weight goes into the product after it, where there is one."""
    y, z, weight = node.inputs
    made, groups = rewriter.before(node), node.attributes["G"].as_int()
    width = fixed_dims(weight)[0] // groups
    gated = made.add("Mul", [y, made.add("QuickGelu", [z], MICROSOFT, alpha=1.0)])
    plain = rms_norm(
        rewriter,
        node,
        made.add("Reshape", [gated, made.ints(0, 0, groups, width)]),
        rewriter.constant(np.ones(width, np.float32)),
    )
    normed = made.add("Reshape", [plain, made.ints(0, 0, groups * width)])
    users = [use.node for use in node.outputs[0].uses()]
    if len(users) == 1 and users[0].op_type == "MatMul":
        made = rewriter.before(users[0], node.op_type)
        weighted = made.add("Mul", [users[0].inputs[1], made.add("Unsqueeze", [weight, made.ints(1)])])
        users[0].replace_input_with(1, weighted)
    else:
        normed = made.add("Mul", [normed, weight])
    rewriter.replace(node, [normed])


def reorder_state(graph: ir.Graph) -> None:
    """Give the graph's Mamba states the shapes that they have in the operators' order of dimensions."""
    for value in (*graph.inputs, *graph.outputs):
        name = str(value.name).removeprefix(new_name(""))
        if is_mamba_state(name):
            assert value.shape is not None, f"{value.name} has no shape"
            *others, last, least = value.shape
            value.shape = ir.Shape([*others, least, last])


def _conv(
    made: Nodes,
    xbc: ir.Value | None,
    weight: ir.Value | None,
    bias: ir.Value | None,
    conv_state: ir.Value | None,
) -> tuple[ir.Value, ir.Value]:
    """Return the activated convolution (B, L, F), and the inputs to keep."""
    # The operator has SiLU as well, one number at a time; the one of its own takes several at once.
    summed, kept = made.add_many(
        "CausalConvWithState", [xbc, weight, bias, conv_state], 2, MICROSOFT, channels_last=1
    )
    return made.add("QuickGelu", [summed], MICROSOFT, alpha=1.0), kept


def _scan(
    made: Nodes,
    activated: ir.Value | None,
    dt: ir.Value | None,
    ssm_state: ir.Value | None,
    dt_bias: ir.Value | None,
    a_log: ir.Value | None,
    groups: int,
    due: ir.Value | None = None,
) -> tuple[ir.Value, ir.Value, ir.Value]:
    """Return x (B, L, H·P), the scan without D·x (B, L, H·P), and the new state.

    due: (B, L, 1) 1 for a token that moves the state, 0 for one that does not; None: all do.
    """
    heads, width, depth = fixed_dims(ssm_state)
    parts = made.ints(heads * width, groups * depth, groups * depth)
    x, b, c = made.add_many("Split", [activated, parts], 3, axis=2)
    step = made.add("Softplus", [made.add("Add", [dt, dt_bias])])
    if due is not None:
        step = made.add("Mul", [step, due])
    rate = made.add("Neg", [made.add("Exp", [a_log])])
    decay = made.add("Mul", [step, rate])
    by_head = made.add("Reshape", [x, made.ints(0, 0, heads, width)])
    weighted = made.add("Mul", [by_head, made.add("Unsqueeze", [step, made.ints(3)])])
    values = made.add("Reshape", [weighted, made.ints(0, 0, heads * width)])
    y, new_ssm = made.add_many(
        "LinearAttention",
        [c, b, values, ssm_state, decay],
        2,
        MICROSOFT,
        q_num_heads=groups,
        kv_num_heads=heads,
        update_rule="gated",
        scale=1.0,
    )
    return x, y, new_ssm
