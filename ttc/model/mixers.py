"""The four mixers in torch (docs/model.md, Mixers), between a layer's norm and its residual.

Shapes as in `ttc.model.towers`. `w` holds the layer's weights by their names inside the layer.
"""

from collections.abc import Callable, Mapping

import torch
from torch import Tensor
from torch.nn import functional

from ttc.model.config import ModelConfig
from ttc.plugins.block_attention import BLOCK_ATTENTION
from ttc.plugins.gated_group_norm import GATED_GROUP_NORM
from ttc.plugins.mamba_advance import MAMBA_ADVANCE
from ttc.plugins.mamba_block_scan import MAMBA_BLOCK_SCAN
from ttc.plugins.moe_experts import MOE_EXPERTS
from ttc.plugins.moe_experts_blocked import MOE_EXPERTS_BLOCKED
from ttc.plugins.moe_experts_scaled import MOE_EXPERTS_SCALED
from ttc.plugins.moe_routing import MOE_ROUTING
from ttc.plugins.squared_relu import SQUARED_RELU

__all__ = [
    "LayerState",
    "RunOp",
    "Weights",
    "WriteCache",
    "advance",
    "attention",
    "attention_inputs",
    "expert_stacks",
    "mamba",
    "mamba_attributes",
    "mamba_inputs",
    "mamba_output",
    "mamba_weights",
    "mixture",
    "relu2_mlp",
    "route",
    "shared_expert",
    "write_cache",
]

Weights = Mapping[str, Tensor]
# Called with the op's signature, its inputs, and its attributes by name.
RunOp = Callable[..., tuple[Tensor, ...]]
LayerState = tuple[Tensor, ...]
# (cache, keys, values, lengths) → cache.
WriteCache = Callable[[LayerState, Tensor, Tensor, Tensor], LayerState]


def mamba(
    config: ModelConfig, w: Weights, run_op: RunOp, h: Tensor, state: LayerState
) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """Compute a Mamba-2 mixer over a block.

    Returns:
        The output (B, L, D); the block's raw convolution inputs xbc (B, L, F) and time steps dt (B, L, H),
        from which its state can be advanced; the activated convolution (B, L, F).
    """
    z, xbc, dt = mamba_inputs(config, w, h)
    y, activated = run_op(MAMBA_BLOCK_SCAN, xbc, dt, *state, *mamba_weights(w), **mamba_attributes(config))
    return mamba_output(config, w, run_op, y, z), xbc, dt, activated


def mamba_inputs(config: ModelConfig, w: Weights, h: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """Return a Mamba mixer's gate z (B, L, M), raw convolution inputs xbc (B, L, F) and time steps dt
    (B, L, H), columns of one matrix.
    """
    widths = [config.d_inner, config.conv_dim, config.mamba_num_heads]
    z, xbc, dt = functional.linear(h, w["mixer.in_proj.weight"]).split(widths, dim=-1)
    return z, xbc, dt


def mamba_weights(w: Weights) -> list[Tensor]:
    """Return the weights that ops of a Mamba mixer take, in the order of their signatures."""
    return [w[f"mixer.{name}"] for name in ("conv1d.weight", "conv1d.bias", "dt_bias", "A_log", "D")]


def mamba_attributes(config: ModelConfig) -> dict[str, int]:
    """Return the attributes of the same ops."""
    return {"G": config.n_groups, "W": config.conv_kernel}


def mamba_output(config: ModelConfig, w: Weights, run_op: RunOp, y: Tensor, z: Tensor) -> Tensor:
    """Return a Mamba mixer's output (B, L, D) of what its scan gave and its gate, both (B, L, M)."""
    attributes = {"G": config.n_groups, "epsilon": config.layer_norm_epsilon}
    (normed,) = run_op(GATED_GROUP_NORM, y, z, w["mixer.norm.weight"], **attributes)
    return functional.linear(normed, w["mixer.out_proj.weight"])


def advance(
    config: ModelConfig,
    w: Weights,
    run_op: RunOp,
    xbc: Tensor,
    activated: Tensor,
    dt: Tensor,
    state: LayerState,
    commit_len: Tensor,
) -> LayerState:
    """Return the Mamba state after the first `commit_len` tokens of the block."""
    return run_op(
        MAMBA_ADVANCE,
        xbc,
        activated,
        dt,
        *state,
        w["mixer.dt_bias"],
        w["mixer.A_log"],
        commit_len,
        G=config.n_groups,
    )


def attention(
    config: ModelConfig,
    w: Weights,
    run_op: RunOp,
    h: Tensor,
    state: LayerState,
    lengths: Tensor,
    *,
    causal: bool,
) -> tuple[Tensor, Tensor, Tensor]:
    """Compute grouped-query attention of a block over the cache and itself, without positional encoding.

    Args:
        config: the model.
        w: the layer's weights, as `attention_inputs` takes them.
        run_op: computes the `ttc` ops.
        h: (B, L, D).
        state: the cache, keys and values (B, KV heads, C, head dim).
        lengths: (B,) int32, how much of the cache counts.
        causal: whether a token of the block sees only itself and earlier ones; else it sees the whole block.

    Returns:
        The output (B, L, D), and the block's keys and values (B, KV heads, L, head dim).
    """
    queries, keys, values = attention_inputs(config, w, h)
    (mixed,) = run_op(BLOCK_ATTENTION, queries, keys, values, *state, lengths, causal=int(causal))
    by_head = (*h.shape[:2], config.num_key_value_heads, config.head_dim)
    new_keys, new_values = (tensor.view(by_head).transpose(1, 2) for tensor in (keys, values))
    return functional.linear(mixed, w["mixer.o_proj.weight"]), new_keys, new_values


def attention_inputs(config: ModelConfig, w: Weights, h: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """Return queries (B, L, heads · head dim), keys and values (B, L, KV heads · head dim).

    With `mixer.qkv_proj.weight`, the three projections side by side, one product stands for three, and they
    are columns of one matrix.
    """
    together = w.get("mixer.qkv_proj.weight")
    if together is None:
        queries, keys, values = (
            functional.linear(h, w[f"mixer.{name}_proj.weight"]) for name in ("q", "k", "v")
        )
    else:
        widths = [config.query_dim, config.key_value_dim, config.key_value_dim]
        queries, keys, values = functional.linear(h, together).split(widths, dim=-1)
    return queries, keys, values


def write_cache(state: LayerState, keys: Tensor, values: Tensor, lengths: Tensor) -> LayerState:
    """Return the cache with the block's keys and values written from position `lengths` of each row on."""
    positions = lengths.long()[:, None] + torch.arange(keys.shape[2], device=keys.device)
    index = positions[:, None, :, None].expand(keys.shape)
    return state[0].scatter(2, index, keys), state[1].scatter(2, index, values)


def mixture(config: ModelConfig, w: Weights, run_op: RunOp, h: Tensor) -> tuple[Tensor, Tensor]:
    """Compute a mixture of experts, whose output is the sum of two.

    Returns:
        What the routed experts give, (B, L, D) float32, and what the shared one does, (B, L, D).
    """
    tokens = h.flatten(0, 1)
    logits = functional.linear(tokens.float(), w["mixer.gate.weight"].float())
    routing = route(config, w, run_op, logits)
    up, down = expert_stacks(w)
    op = (MOE_EXPERTS, MOE_EXPERTS_SCALED, MOE_EXPERTS_BLOCKED)[len(up) - 1]
    (routed,) = run_op(op, tokens, *up, *down, *routing)
    return routed.view(h.shape), shared_expert(w, run_op, h)


def route(config: ModelConfig, w: Weights, run_op: RunOp, logits: Tensor) -> tuple[Tensor, ...]:
    """Return what `MoeRouting` makes of a layer's router logits (T, E)."""
    return run_op(
        MOE_ROUTING,
        logits,
        w["mixer.gate.e_score_correction_bias"].float(),
        K=config.num_experts_per_tok,
        n_group=config.n_group,
        topk_group=config.topk_group,
        norm_topk_prob=int(config.norm_topk_prob),
        routed_scaling_factor=float(config.routed_scaling_factor),
    )


def expert_stacks(w: Weights) -> tuple[list[Tensor], list[Tensor]]:
    """Return a layer's experts up and down, each stack followed by its scales: none, one or two."""
    scales = [end for end in ("_scale", "_scale_2") if f"mixer.experts.up_proj.weight{end}" in w]
    up, down = (
        [w[f"mixer.experts.{projection}.weight{end}"] for end in ("", *scales)]
        for projection in ("up_proj", "down_proj")
    )
    return up, down


def shared_expert(w: Weights, run_op: RunOp, h: Tensor) -> Tensor:
    """Return the output of a layer's shared expert: (B, L, D)."""
    up, down = (w[f"mixer.shared_experts.{name}_proj.weight"] for name in ("up", "down"))
    return relu2_mlp(run_op, h, up, down)


def relu2_mlp(run_op: RunOp, h: Tensor, up: Tensor, down: Tensor) -> Tensor:
    """Return down(relu(up·h)²)."""
    (activated,) = run_op(SQUARED_RELU, functional.linear(h, up))
    return functional.linear(activated, down)
