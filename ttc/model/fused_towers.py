"""Both towers by ops of several parts: the numbers of `ttc.model.towers` in fewer launches, for a GPU.

One op ends a layer and begins the next (`ttc.plugins.residual_norm`), one is a whole Mamba mixer between its
projections (`ttc.plugins.mamba_mixer`), the router's product takes tokens as they are, and the weighted sum
of experts' rows is part of the residual. The state may lie in a pool (`ttc.model.places`), and few rows over
a long context share its length among programs (`ttc.plugins.attention_splits`). With the naive ops the
results are those of `ttc.model.towers` bit for bit; shapes and letters are as there.
"""

from collections.abc import Callable, Sequence

import torch
from torch import Tensor
from torch.nn import functional

from ttc.model.config import LayerKind, ModelConfig
from ttc.model.mixers import (
    LayerState,
    RunOp,
    Weights,
    attention_inputs,
    expert_stacks,
    mamba_attributes,
    mamba_inputs,
    mamba_output,
    mamba_weights,
    relu2_mlp,
    route,
    shared_expert,
)
from ttc.model.places import Dense, Place
from ttc.model.towers import Record, TowerWeights, embed, time_embedding
from ttc.plugins.attention_splits import splits_of
from ttc.plugins.block_attention import BLOCK_ATTENTION, SPLIT_ATTENTION
from ttc.plugins.mamba_block_scan import MAMBA_CONV
from ttc.plugins.mamba_mixer import MAMBA_LONG_MIXER, MAMBA_MIXER, MAMBA_READING
from ttc.plugins.moe_experts import MOE_DOWN, MOE_UP
from ttc.plugins.moe_experts_blocked import MOE_DOWN_BLOCKED, MOE_UP_BLOCKED
from ttc.plugins.moe_experts_scaled import MOE_DOWN_SCALED, MOE_UP_SCALED
from ttc.plugins.page_write import PAGE_WRITE
from ttc.plugins.paged_attention import PAGED_ATTENTION, SPLIT_PAGED_ATTENTION
from ttc.plugins.residual_norm import (
    GATED_MIXTURE_RESIDUAL_MODULATED_NORM,
    GATED_MIXTURE_RESIDUAL_NORM,
    GATED_MIXTURE_RESIDUAL_NORM_MODULATED,
    GATED_RESIDUAL_MODULATED_NORM,
    GATED_RESIDUAL_NORM,
    GATED_RESIDUAL_NORM_MODULATED,
    MIXTURE_RESIDUAL_NORM,
    RESIDUAL_NORM,
)
from ttc.plugins.residual_stream import MODULATED_NORM, NORM_MODULATED, STREAM_NORM
from ttc.plugins.router_logits import ROUTER_LOGITS

__all__ = [
    "WriteBlock",
    "advance_layer",
    "context_forward",
    "context_layer",
    "denoiser_forward",
    "denoiser_layer",
]

# (caches or pages, keys, values (B, L, KV heads · head dim), place) → what is the layer's new state.
WriteBlock = Callable[[LayerState, Tensor, Tensor, Place], LayerState]

# From so many tokens on a convolution of its own is less work than one by every head, a launch more included.
_LONG = 64
# By how many scales the experts have.
_UP = (MOE_UP, MOE_UP_SCALED, MOE_UP_BLOCKED)
_DOWN = (MOE_DOWN, MOE_DOWN_SCALED, MOE_DOWN_BLOCKED)
# The sum after a layer, an expert layer or another, and the norm before the next: modulated, then normed; the
# other way round; not modulated.
_GATED = {
    True: (
        GATED_MIXTURE_RESIDUAL_MODULATED_NORM,
        GATED_MIXTURE_RESIDUAL_NORM_MODULATED,
        GATED_MIXTURE_RESIDUAL_NORM,
    ),
    False: (GATED_RESIDUAL_MODULATED_NORM, GATED_RESIDUAL_NORM_MODULATED, GATED_RESIDUAL_NORM),
}


def context_forward(
    config: ModelConfig,
    weights: TowerWeights,
    run_op: RunOp,
    input_ids: Tensor,
    place: Place,
    commit_len: Tensor,
    logit_positions: Tensor | None,
    state: Sequence[LayerState],
    record: Record | None = None,
    write: WriteBlock | None = None,
    into: Tensor | None = None,
    *,
    keep: bool = True,
) -> tuple[Tensor | None, list[LayerState], list[LayerState]]:
    """Do what `ttc.model.towers.context_forward` does; logits are in the compute dtype.

    Args:
        config: the model.
        weights: the context tower's.
        run_op: computes the `ttc` ops.
        input_ids: (B, L) int32.
        place: where the state lies.
        commit_len: (B,) int32.
        logit_positions: None where no logits are wanted; None is then what comes in their place.
        state: per layer, what lies there.
        record: called after every layer with its number and the stream.
        write: puts a block's keys and values away in place of the op `PageWrite`.
        into: where the logits go, (B, R, V) in the compute dtype, instead of new memory.
        keep: return what `advance_layer` needs. It is a view of every Mamba layer's projections, all of which
            then stay in memory until the call's end.

    Returns:
        Logits, the new state, and what `advance_layer` needs. New Mamba states are those of the call's rows,
        (B, …), unless `run_op` arranges otherwise.
    """
    epsilon = {"epsilon": config.layer_norm_epsilon}
    norms = [*(w["norm.weight"] for w in weights.layers), weights.norm]
    x = embed(weights.embeddings, input_ids)
    (h,) = run_op(STREAM_NORM, x, norms[0], **epsilon)
    new_state: list[LayerState] = []
    saved: list[LayerState] = []
    for i, (kind, w, before) in enumerate(zip(config.layers, weights.layers, state, strict=True)):
        x, h, after, kept = context_layer(
            config, kind, w, norms[i + 1], run_op, x, h, place, commit_len, before, write
        )
        new_state.append(after)
        saved.append(kept if keep else ())
        if record is not None:
            record(i, x)
    if logit_positions is None:
        return None, new_state, saved
    index = logit_positions.long()[:, :, None].expand(-1, -1, config.hidden_size)
    return _head(h.gather(1, index), weights.head, into), new_state, saved


def denoiser_forward(
    config: ModelConfig,
    weights: TowerWeights,
    run_op: RunOp,
    block_ids: Tensor,
    t: Tensor,
    place: Place,
    state: Sequence[LayerState],
    record: Record | None = None,
    into: Tensor | None = None,
) -> Tensor:
    """Do what `ttc.model.towers.denoiser_forward` does, on a state that lies at `place`; logits are in the
    compute dtype.

    into: where they go, (B, L, V), instead of new memory.
    """
    epsilon = {"epsilon": config.layer_norm_epsilon}
    layers = weights.layers
    x = embed(weights.embeddings, block_ids)
    modulation = time_embedding(config, weights.time, t, x.dtype)
    first = (MODULATED_NORM, NORM_MODULATED)[_norms_first(config.layers[0])]
    (h,) = run_op(
        first, x, modulation, t, layers[0]["scale_shift_table"], layers[0]["norm.weight"], **epsilon
    )
    for i, (kind, w, context) in enumerate(zip(config.layers, layers, state, strict=True)):
        following = (config.layers[i + 1], layers[i + 1]) if i + 1 < len(layers) else None
        x, h = denoiser_layer(
            config, kind, w, following, weights.norm, run_op, x, h, modulation, t, place, context
        )
        if record is not None:
            record(i, x)
    return _head(h, weights.head, into)


def context_layer(
    config: ModelConfig,
    kind: LayerKind,
    w: Weights,
    next_norm: Tensor,
    run_op: RunOp,
    x: Tensor,
    h: Tensor,
    place: Place,
    commit_len: Tensor,
    before: LayerState,
    write: WriteBlock | None = None,
) -> tuple[Tensor, Tensor, LayerState, LayerState]:
    """Return the stream after a layer of normed stream h, its norm for the next layer by `next_norm`, the
    layer's new state, and what `advance_layer` needs; arguments as of `context_forward` and
    `ttc.model.towers.context_layer`.
    """
    after: LayerState = ()
    kept: LayerState = ()
    outs: tuple[Tensor, ...]
    if kind == LayerKind.MAMBA:
        z, xbc, dt = mamba_inputs(config, w, h)
        kept = (xbc, dt)
        y, *states = _mixed(config, w, run_op, xbc, dt, place, commit_len, before)
        after, outs = tuple(states), (mamba_output(config, w, run_op, y, z),)
    elif kind == LayerKind.ATTENTION:
        queries, keys, values = attention_inputs(config, w, h)
        outs = (_attention(config, w, run_op, queries, keys, values, before, place, causal=True),)
        if write is None:
            after = run_op(PAGE_WRITE, keys, values, *before, place.pages, place.lengths)
        else:
            after = write(before, keys, values, place)
    else:
        outs = _rest(config, kind, w, run_op, h)
    op = MIXTURE_RESIDUAL_NORM if kind == LayerKind.MOE else RESIDUAL_NORM
    x, h = run_op(op, x, *outs, next_norm, epsilon=config.layer_norm_epsilon)
    return x, h, after, kept


def advance_layer(
    config: ModelConfig,
    w: Weights,
    run_op: RunOp,
    xbc: Tensor,
    dt: Tensor,
    commit_len: Tensor,
    place: Place,
    state: LayerState,
) -> LayerState:
    """Do what `ttc.model.towers.advance_layer` does, on a state that lies at `place`, in one launch: what the
    mixer gives besides is not looked at.
    """
    _, *states = _mixed(config, w, run_op, xbc, dt, place, commit_len, state)
    return tuple(states)


def denoiser_layer(
    config: ModelConfig,
    kind: LayerKind,
    w: Weights,
    following: tuple[LayerKind, Weights] | None,
    last_norm: Tensor,
    run_op: RunOp,
    x: Tensor,
    h: Tensor,
    modulation: Tensor,
    t: Tensor,
    place: Place,
    context: LayerState,
) -> tuple[Tensor, Tensor]:
    """Return the stream after a layer of normed stream h, and its norm for the next layer, of which
    `following` has kind and weights; after the last layer by `last_norm`. Other arguments as of
    `ttc.model.towers.denoiser_layer`.
    """
    outs: tuple[Tensor, ...]
    if kind == LayerKind.MAMBA:
        z, xbc, dt = mamba_inputs(config, w, h)
        (y,) = run_op(
            MAMBA_READING, xbc, dt, *context, place.rows, *mamba_weights(w), **mamba_attributes(config)
        )
        outs = (mamba_output(config, w, run_op, y, z),)
    elif kind == LayerKind.ATTENTION:
        block = attention_inputs(config, w, h)
        outs = (_attention(config, w, run_op, *block, context, place, causal=False),)
    else:
        outs = _rest(config, kind, w, run_op, h)
    inputs, ops = (x, *outs, modulation, t, w["scale_shift_table"]), _GATED[kind == LayerKind.MOE]
    epsilon = config.layer_norm_epsilon
    if following is None:
        x, h = run_op(ops[2], *inputs, last_norm, epsilon=epsilon)
    else:
        next_kind, next_w = following
        norm = next_w["scale_shift_table"], next_w["norm.weight"]
        x, h = run_op(ops[_norms_first(next_kind)], *inputs, *norm, epsilon=epsilon)
    return x, h


def _mixed(
    config: ModelConfig,
    w: Weights,
    run_op: RunOp,
    xbc: Tensor,
    dt: Tensor,
    place: Place,
    commit_len: Tensor,
    state: LayerState,
) -> tuple[Tensor, ...]:
    """Return what a Mamba layer makes of a block: y and both states."""
    weights, attributes = mamba_weights(w), mamba_attributes(config)
    if xbc.shape[1] < _LONG:
        return run_op(MAMBA_MIXER, xbc, dt, *state, place.rows, *weights, commit_len, **attributes)
    conv_weight, conv_bias, *of_scan = weights
    own = state[0] if isinstance(place, Dense) else state[0].index_select(0, place.rows)
    (activated,) = run_op(MAMBA_CONV, xbc, own, conv_weight, conv_bias, W=attributes["W"])
    return run_op(
        MAMBA_LONG_MIXER, xbc, activated, dt, *state, place.rows, *of_scan, commit_len, **attributes
    )


def _attention(
    config: ModelConfig,
    w: Weights,
    run_op: RunOp,
    queries: Tensor,
    keys: Tensor,
    values: Tensor,
    context: LayerState,
    place: Place,
    *,
    causal: bool,
) -> Tensor:
    """Return an attention layer's output (B, L, D), in one launch or by parts of the context."""
    dense = isinstance(place, Dense)
    where = () if dense else (place.pages,)
    capacity = context[0].shape[2] * place.pages.shape[1]
    heads, kv_heads = config.num_attention_heads, config.num_key_value_heads
    parts = splits_of(len(queries), queries.shape[1], heads, kv_heads, capacity)
    inputs = queries, keys, values, *context, *where, place.lengths
    if parts == 1:
        (mixed,) = run_op(BLOCK_ATTENTION if dense else PAGED_ATTENTION, *inputs, causal=int(causal))
    else:
        op = SPLIT_ATTENTION if dense else SPLIT_PAGED_ATTENTION
        (mixed,) = run_op(op, *inputs, causal=int(causal), X=parts, A=heads)
    return functional.linear(mixed, w["mixer.o_proj.weight"])


def _head(h: Tensor, weight: Tensor, into: Tensor | None) -> Tensor:
    if into is None:
        return functional.linear(h, weight)
    torch.mm(h.flatten(0, 1), weight.t(), out=into.flatten(0, 1))
    return into


def _norms_first(kind: LayerKind) -> bool:
    """Return whether the denoiser norms before it modulates, in a layer of this kind."""
    return kind not in (LayerKind.MAMBA, LayerKind.ATTENTION)


def _rest(config: ModelConfig, kind: LayerKind, w: Weights, run_op: RunOp, h: Tensor) -> tuple[Tensor, ...]:
    """Return what an expert layer or an MLP adds to the stream, as the op that adds it takes it."""
    if kind == LayerKind.MLP:
        return (relu2_mlp(run_op, h, w["mixer.up_proj.weight"], w["mixer.down_proj.weight"]),)
    tokens = h.flatten(0, 1)
    (logits,) = run_op(ROUTER_LOGITS, tokens, w["mixer.gate.weight"].float())
    experts, weights, pairs, rows, offsets = route(config, w, run_op, logits)
    up, down = expert_stacks(w)
    order = experts, pairs, offsets
    (activated,) = run_op(_UP[len(up) - 1], tokens, *up, *order)
    (made,) = run_op(_DOWN[len(down) - 1], activated, *down, *order)
    return made, weights, rows, shared_expert(w, run_op, h)
