"""The four mixers in plain torch (docs/model.md, Mixers), between a layer's norm and its residual.

Shapes as in `ttc.model.towers`. `w` holds the layer's weights by their names inside the layer.
"""

from collections.abc import Callable, Mapping

import torch
from torch import Tensor
from torch.nn import functional

from ttc.model.config import LayerKind, ModelConfig
from ttc.plugins.mamba_advance import MAMBA_ADVANCE
from ttc.plugins.mamba_block_scan import MAMBA_BLOCK_SCAN
from ttc.plugins.moe_experts import MOE_EXPERTS
from ttc.plugins.moe_experts_blocked import MOE_EXPERTS_BLOCKED
from ttc.plugins.moe_experts_scaled import MOE_EXPERTS_SCALED
from ttc.plugins.moe_routing import MOE_ROUTING
from ttc.plugins.ops import OpSpec

__all__ = [
    "LayerState",
    "RunOp",
    "Weights",
    "advance",
    "attention",
    "feed_forward",
    "mamba",
    "relu2_mlp",
    "rms_norm",
    "write_cache",
    "write_cache_in_place",
]

Weights = Mapping[str, Tensor]
# Called with the op's signature, its inputs, and its attributes by name.
RunOp = Callable[..., tuple[Tensor, ...]]
LayerState = tuple[Tensor, ...]


def mamba(
    config: ModelConfig, w: Weights, run_op: RunOp, h: Tensor, state: LayerState
) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """Compute a Mamba-2 mixer over a block.

    Returns:
        The output (B, L, D); the block's raw convolution inputs xbc (B, L, F) and time steps dt (B, L, H),
        from which its state can be advanced; the activated convolution (B, L, F).
    """
    d_inner, groups = config.d_inner, config.n_groups
    projected = functional.linear(h, w["mixer.in_proj.weight"])
    z, xbc, dt = projected.split([d_inner, config.conv_dim, config.mamba_num_heads], dim=-1)
    y, activated = run_op(
        MAMBA_BLOCK_SCAN,
        xbc,
        dt,
        *state,
        w["mixer.conv1d.weight"],
        w["mixer.conv1d.bias"],
        w["mixer.dt_bias"],
        w["mixer.A_log"],
        w["mixer.D"],
        G=groups,
        W=config.conv_kernel,
    )
    # Gate first, then norm over each group of channels.
    gated = (y.float() * functional.silu(z.float())).unflatten(-1, (groups, d_inner // groups))
    scale = torch.rsqrt(gated.square().mean(-1, keepdim=True) + config.layer_norm_epsilon)
    normed = ((gated * scale).flatten(-2) * w["mixer.norm.weight"].float()).to(h.dtype)
    return functional.linear(normed, w["mixer.out_proj.weight"]), xbc, dt, activated


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
    config: ModelConfig, w: Weights, h: Tensor, state: LayerState, lengths: Tensor, *, causal: bool
) -> tuple[Tensor, Tensor, Tensor]:
    """Compute grouped-query attention of a block over the cache and itself, without positional encoding.

    Query heads of one KV head are folded into the query axis, so that keys and values are read once and never
    repeated: row r of the folded axis is token r div (heads per KV head).

    Args:
        config: the model.
        w: the layer's weights.
        h: (B, L, D).
        state: the cache, keys and values (B, KV heads, C, head dim).
        lengths: (B,) int32, how much of the cache counts.
        causal: whether a token of the block sees only itself and earlier ones; else it sees the whole block.

    Returns:
        The output (B, L, D), and the block's keys and values (B, KV heads, L, head dim).
    """
    B, L, _ = h.shape
    heads, kv_heads, P = config.num_attention_heads, config.num_key_value_heads, config.head_dim
    per_kv = heads // kv_heads
    queries = functional.linear(h, w["mixer.q_proj.weight"]).view(B, L, kv_heads, per_kv, P)
    queries = queries.transpose(1, 2).reshape(B, kv_heads, L * per_kv, P)
    keys = functional.linear(h, w["mixer.k_proj.weight"]).view(B, L, kv_heads, P).transpose(1, 2)
    values = functional.linear(h, w["mixer.v_proj.weight"]).view(B, L, kv_heads, P).transpose(1, 2)

    cached_keys, cached_values = state
    C = cached_keys.shape[2]
    scale = P**-0.5
    # (B, KV, L · heads per KV head, keys)
    over_cache = (queries @ cached_keys.transpose(2, 3)).float() * scale
    over_block = (queries @ keys.transpose(2, 3)).float() * scale
    in_context = torch.arange(C, dtype=torch.int32, device=h.device) < lengths[:, None]
    over_cache = torch.where(in_context[:, None, None, :], over_cache, -torch.inf)
    if causal:
        key = torch.arange(L, dtype=torch.int32, device=h.device)
        token = torch.arange(L * per_kv, dtype=torch.int32, device=h.device) // per_kv
        over_block = torch.where(key <= token[:, None], over_block, -torch.inf)
    weight = torch.cat([over_cache, over_block], dim=-1).softmax(-1).to(h.dtype)
    weight_cache, weight_block = weight.split([C, L], dim=-1)
    mixed = weight_cache @ cached_values + weight_block @ values
    mixed = mixed.view(B, kv_heads, L, per_kv, P).transpose(1, 2).reshape(B, L, heads * P)
    return functional.linear(mixed, w["mixer.o_proj.weight"]), keys, values


def write_cache(state: LayerState, keys: Tensor, values: Tensor, lengths: Tensor) -> LayerState:
    """Return the cache with the block's keys and values written from position `lengths` of each row on."""
    index = _cache_positions(keys, lengths)
    return state[0].scatter(2, index, keys), state[1].scatter(2, index, values)


def write_cache_in_place(state: LayerState, keys: Tensor, values: Tensor, lengths: Tensor) -> LayerState:
    """Write them into the cache itself and return it: only the block's keys and values are moved."""
    index = _cache_positions(keys, lengths)
    return state[0].scatter_(2, index, keys), state[1].scatter_(2, index, values)


def _cache_positions(keys: Tensor, lengths: Tensor) -> Tensor:
    positions = lengths.long()[:, None] + torch.arange(keys.shape[2], device=keys.device)
    return positions[:, None, :, None].expand(keys.shape)


def feed_forward(config: ModelConfig, kind: LayerKind, w: Weights, run_op: RunOp, h: Tensor) -> Tensor:
    """Compute a mixer without state, a mixture of experts or an MLP: (B, L, D)."""
    if kind == LayerKind.MLP:
        return relu2_mlp(h, w["mixer.up_proj.weight"], w["mixer.down_proj.weight"])
    tokens = h.flatten(0, 1)
    logits = functional.linear(tokens.float(), w["mixer.gate.weight"].float())
    experts, weights, pairs, rows, offsets = run_op(
        MOE_ROUTING,
        logits,
        w["mixer.gate.e_score_correction_bias"].float(),
        K=config.num_experts_per_tok,
        n_group=config.n_group,
        topk_group=config.topk_group,
        norm_topk_prob=int(config.norm_topk_prob),
        routed_scaling_factor=float(config.routed_scaling_factor),
    )
    op, stacks = _experts(w)
    (routed,) = run_op(op, tokens, *stacks, experts, weights, pairs, rows, offsets)
    shared = relu2_mlp(
        h, w["mixer.shared_experts.up_proj.weight"], w["mixer.shared_experts.down_proj.weight"]
    )
    return routed.to(h.dtype).view(h.shape) + shared


def _experts(w: Weights) -> tuple[OpSpec, list[Tensor]]:
    """Return the op of the layer's experts, which their scales tell, and both stacks with their scales."""
    scales = [end for end in ("_scale", "_scale_2") if f"mixer.experts.up_proj.weight{end}" in w]
    stacks = [
        w[f"mixer.experts.{projection}.weight{end}"]
        for projection in ("up_proj", "down_proj")
        for end in ("", *scales)
    ]
    return (MOE_EXPERTS, MOE_EXPERTS_SCALED, MOE_EXPERTS_BLOCKED)[len(scales)], stacks


def relu2_mlp(h: Tensor, up: Tensor, down: Tensor) -> Tensor:
    """Return down(relu(up·h)²)."""
    return functional.linear(functional.relu(functional.linear(h, up)).square(), down)


def rms_norm(x: Tensor, weight: Tensor, eps: float) -> Tensor:
    """Return x / rms(x) · weight over the last axis, computed in float32 and cast back."""
    wide = x.float()
    return (wide * torch.rsqrt(wide.square().mean(-1, keepdim=True) + eps) * weight.float()).to(x.dtype)
