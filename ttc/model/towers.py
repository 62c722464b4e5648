"""Both towers in torch: the meaning of the model (docs/model.md).

Everything is a function of (config, weights, tensors). Weights are a mapping from checkpoint names to
tensors, so they may be mapped from the checkpoint, converted, or never materialised at all (the exporter
traces with fake ones). The hot parts go through `run_op`: `ttc.plugins.naive.run_naive` computes them, the
exporter's tracer records them.

Shapes: B batch, L tokens of the block, C context capacity, R requested positions, D hidden size, F conv
channels, W conv width, H Mamba heads, P head dim, N state, V vocabulary. A layer's state is a pair: (conv (B,
F, W−1), ssm (B, H, P, N) float32) for `M`, (keys, values), each (B, KV heads, C, head dim), for `*`, and ()
for `E` and `-`.
"""

import math
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor
from torch.nn import functional

from ttc.model.config import TIME_FEATURES, LayerKind, ModelConfig
from ttc.model.mixers import (
    LayerState,
    RunOp,
    Weights,
    WriteCache,
    advance,
    attention,
    mamba,
    mixture,
    relu2_mlp,
    write_cache,
)
from ttc.model.weights import DENOISER, HEADS, TIME_WEIGHTS
from ttc.plugins.mamba_block_scan import MAMBA_CONV
from ttc.plugins.residual_stream import (
    GATED_MIXTURE_RESIDUAL,
    GATED_RESIDUAL,
    MIXTURE_RESIDUAL,
    MODULATED_NORM,
    NORM_MODULATED,
    STREAM_NORM,
)

__all__ = [
    "Record",
    "TowerWeights",
    "advance_layer",
    "context_forward",
    "context_head",
    "context_layer",
    "denoiser_forward",
    "denoiser_head",
    "denoiser_layer",
    "embed",
    "layer_weight_names",
    "time_embedding",
]

# Sees (layer number, x) after every layer.
Record = Callable[[int, Tensor], None]

TIME_FREQUENCIES, TIME_PERIOD, TIME_FACTOR = TIME_FEATURES // 2, 10000.0, 1000.0


def context_forward(
    config: ModelConfig,
    weights: "TowerWeights",
    run_op: RunOp,
    input_ids: Tensor,
    lengths: Tensor,
    commit_len: Tensor,
    logit_positions: Tensor,
    state: Sequence[LayerState],
    record: Record | None = None,
    write: WriteCache = write_cache,
) -> tuple[Tensor, list[LayerState], list[LayerState]]:
    """Read a block with the context tower and move the state past its first `commit_len` tokens.

    Args:
        config: the model.
        weights: of the context tower.
        run_op: computes the `ttc` ops.
        input_ids: (B, L) int32.
        lengths: (B,) int32 tokens in the context before the block; lengths + L ≤ C.
        commit_len: (B,) int32, 0 … L.
        logit_positions: (B, R) int32 positions in the block.
        state: one entry per layer.
        record: called with each layer's number and its x, the residual stream after it.
        write: puts a block's keys and values into a layer's cache, by default into a copy of it.

    Returns:
        logits (B, R, V) float32; the new state (for `*` layers all L keys and values are written, of which
        lengths + commit_len count); what `advance_layer` needs to move the state later: (xbc, dt) for `M`
        layers, else ().
    """
    x = embed(weights.embeddings, input_ids)
    new_state, saved = [], []
    for i, (kind, w, before) in enumerate(zip(config.layers, weights.layers, state, strict=True)):
        x, after, kept = context_layer(config, kind, w, run_op, x, lengths, commit_len, before, write)
        new_state.append(after)
        saved.append(kept)
        if record is not None:
            record(i, x)
    logits = context_head(config, run_op, weights.norm, weights.head, x, logit_positions)
    return logits, new_state, saved


def denoiser_forward(
    config: ModelConfig,
    weights: "TowerWeights",
    run_op: RunOp,
    block_ids: Tensor,
    t: Tensor,
    lengths: Tensor,
    state: Sequence[LayerState],
    record: Record | None = None,
    time_dtype: torch.dtype | None = None,
) -> Tensor:
    """Evaluate the denoiser on a block over the context tower's state, which stays as it is.

    Args:
        config: the model.
        weights: of the denoiser.
        run_op: computes the `ttc` ops.
        block_ids: (B, L) int32.
        t: (B,) float32 share of masked positions; a negative t switches conditioning off.
        lengths: (B,) int32 context tokens.
        state: the context tower's, one entry per layer.
        record: called with each layer's number and its x, the residual stream after it.
        time_dtype: what t and its sinusoid are rounded to; None: the dtype computed in. A float32 run of a
            bf16 model rounds them to bf16, as the model was trained.

    Returns:
        logits (B, L, V) float32, the mask id's included.
    """
    x = embed(weights.embeddings, block_ids)
    modulation = time_embedding(config, weights.time, t, time_dtype or x.dtype)
    for i, (kind, w, context) in enumerate(zip(config.layers, weights.layers, state, strict=True)):
        x = denoiser_layer(config, kind, w, run_op, x, modulation, t, lengths, context)
        if record is not None:
            record(i, x)
    return denoiser_head(config, run_op, weights.norm, weights.head, x)


@dataclass(frozen=True, slots=True)
class TowerWeights:
    """One tower's weights, sorted once so that a forward pass looks nothing up by its full name.

    Attributes:
        embeddings: (V, D).
        head: (V, D).
        norm: (D,).
        layers: a mapping per layer, keyed by the names inside the layer (`norm.weight`, `mixer.…`); in the
            denoiser also `scale_shift_table` (3, D).
        time: the time MLPs under their checkpoint names; empty in the context tower.
    """

    embeddings: Tensor
    layers: tuple[Weights, ...]
    norm: Tensor
    head: Tensor
    time: Weights

    @classmethod
    def of(cls, config: ModelConfig, tower: str, weights: Weights) -> "TowerWeights":
        """Pick one tower's weights out of a mapping from checkpoint names to tensors."""
        denoiser = tower == DENOISER
        names = layer_weight_names(config, tower, weights)
        return cls(
            weights[f"{tower}.embeddings.weight"],
            tuple({inside: weights[name] for inside, name in layer.items()} for layer in names),
            weights[f"{tower}.norm_f.weight"],
            weights[HEADS[tower]],
            {name: weights[name] for name in TIME_WEIGHTS} if denoiser else {},
        )


def layer_weight_names(config: ModelConfig, tower: str, names: Iterable[str]) -> list[dict[str, str]]:
    """Sort the weights of a tower by layer.

    Args:
        config: the model.
        tower: one of the two.
        names: of graph weights; those of the other tower, and those outside the layers, are left out.

    Returns:
        Per layer: name inside the layer → name.
    """
    layers: list[dict[str, str]] = [{} for _ in config.layers]
    prefix = f"{tower}.layers."
    for name in names:
        if name.startswith(prefix):
            number, inside = name.removeprefix(prefix).split(".", 1)
            layers[int(number)][inside] = name
    if tower == DENOISER:
        for i, layer in enumerate(layers):
            layer["scale_shift_table"] = f"scale_shift_tables.{i}"
    return layers


def context_layer(
    config: ModelConfig,
    kind: LayerKind,
    w: Weights,
    run_op: RunOp,
    x: Tensor,
    lengths: Tensor,
    commit_len: Tensor,
    state: LayerState,
    write: WriteCache = write_cache,
) -> tuple[Tensor, LayerState, LayerState]:
    """Return x + mixer(norm(x)), the layer's new state, and what `advance_layer` needs to make it later."""
    (h,) = run_op(STREAM_NORM, x, w["norm.weight"], epsilon=config.layer_norm_epsilon)
    if kind == LayerKind.MAMBA:
        out, xbc, dt, activated = mamba(config, w, run_op, h, state)
        new_state = advance(config, w, run_op, xbc, activated, dt, state, commit_len)
        return x + out, new_state, (xbc, dt)
    if kind == LayerKind.ATTENTION:
        out, keys, values = attention(config, w, run_op, h, state, lengths, causal=True)
        return x + out, write(state, keys, values, lengths), ()
    if kind == LayerKind.MOE:
        return run_op(MIXTURE_RESIDUAL, x, *mixture(config, w, run_op, h))[0], (), ()
    return x + relu2_mlp(run_op, h, w["mixer.up_proj.weight"], w["mixer.down_proj.weight"]), (), ()


def denoiser_layer(
    config: ModelConfig,
    kind: LayerKind,
    w: Weights,
    run_op: RunOp,
    x: Tensor,
    modulation: Tensor,
    t: Tensor,
    lengths: Tensor,
    state: LayerState,
) -> Tensor:
    """Return x + gate·mixer(h) (docs/model.md, Time conditioning).

    Mamba and attention modulate the residual stream and then norm, h = norm(x·(1 + scale) + shift); the
    others norm and then modulate, h = norm(x)·(1 + scale) + shift.

    Args:
        config: the model.
        kind: of the layer.
        w: its weights.
        run_op: computes the `ttc` ops.
        x: (B, L, D) the residual stream.
        modulation: (B, 3, D) from `time_embedding`.
        t: (B,) float32, negative where the row is not conditioned.
        lengths: (B,) int32 context tokens.
        state: the context tower's layer state.
    """
    of_layer = modulation, t, w["scale_shift_table"]
    norm = MODULATED_NORM if kind in (LayerKind.MAMBA, LayerKind.ATTENTION) else NORM_MODULATED
    (h,) = run_op(norm, x, *of_layer, w["norm.weight"], epsilon=config.layer_norm_epsilon)
    if kind == LayerKind.MOE:
        return run_op(GATED_MIXTURE_RESIDUAL, x, *mixture(config, w, run_op, h), *of_layer)[0]
    if kind == LayerKind.MAMBA:
        out = mamba(config, w, run_op, h, state)[0]
    elif kind == LayerKind.ATTENTION:
        out = attention(config, w, run_op, h, state, lengths, causal=False)[0]
    else:
        out = relu2_mlp(run_op, h, w["mixer.up_proj.weight"], w["mixer.down_proj.weight"])
    return run_op(GATED_RESIDUAL, x, out, *of_layer)[0]


def advance_layer(
    config: ModelConfig,
    w: Weights,
    run_op: RunOp,
    xbc: Tensor,
    dt: Tensor,
    commit_len: Tensor,
    state: LayerState,
) -> LayerState:
    """Return a Mamba layer's state after the first `commit_len` tokens of a block that was read earlier.

    Args:
        config: the model.
        w: the layer's weights.
        run_op: computes the `ttc` ops.
        xbc: (B, L, F) raw convolution inputs of the block, saved by the context tower.
        dt: (B, L, H) raw time steps of the block, saved too.
        commit_len: (B,) int32, 0 … L.
        state: the layer's, before the block.
    """
    conv_weight, conv_bias = w["mixer.conv1d.weight"], w["mixer.conv1d.bias"]
    (activated,) = run_op(MAMBA_CONV, xbc, state[0], conv_weight, conv_bias, W=config.conv_kernel)
    return advance(config, w, run_op, xbc, activated, dt, state, commit_len)


def embed(table: Tensor, ids: Tensor) -> Tensor:
    """Return the rows of the embedding table: (B, L, D)."""
    return functional.embedding(ids, table)


def time_sinusoid(t: Tensor, dtype: torch.dtype) -> Tensor:
    """Return cosines, then sines of 1000·t·f_i, f_i = 10000^(−i/128): (B, 256).

    In a bf16 model t, 1000·t and the result are rounded to bf16, as the reference does.
    """
    scaled = (t.to(dtype).float() * TIME_FACTOR).to(dtype).float()
    index = torch.arange(TIME_FREQUENCIES, dtype=torch.float32, device=t.device)
    frequencies = torch.exp(-math.log(TIME_PERIOD) * index / TIME_FREQUENCIES)
    angle = scaled[:, None] * frequencies
    return torch.cat([angle.cos(), angle.sin()], dim=-1).to(dtype)


def time_embedding(config: ModelConfig, w: Weights, t: Tensor, dtype: torch.dtype) -> Tensor:
    """Return shift, scale and gate without the layers' own tables: (B, 3, D). Unused where t is negative."""
    first = w["t_embedder.mlp.0.weight"]
    hidden = functional.linear(time_sinusoid(t, dtype).to(first.dtype), first, w["t_embedder.mlp.0.bias"])
    embedded = functional.linear(
        functional.silu(hidden), w["t_embedder.mlp.2.weight"], w["t_embedder.mlp.2.bias"]
    )
    modulation = functional.linear(functional.silu(embedded), w["t_block.1.weight"], w["t_block.1.bias"])
    return modulation.view(-1, 3, config.hidden_size)


def context_head(
    config: ModelConfig, run_op: RunOp, norm: Tensor, head: Tensor, x: Tensor, logit_positions: Tensor
) -> Tensor:
    """Return logits (B, R, V) float32 at the requested positions of the block."""
    index = logit_positions.long()[:, :, None].expand(-1, -1, config.hidden_size)
    return denoiser_head(config, run_op, norm, head, x.gather(1, index))


def denoiser_head(config: ModelConfig, run_op: RunOp, norm: Tensor, head: Tensor, x: Tensor) -> Tensor:
    """Return logits (B, L, V) float32 at every position of the block."""
    (h,) = run_op(STREAM_NORM, x, norm, epsilon=config.layer_norm_epsilon)
    return functional.linear(h, head).float()
