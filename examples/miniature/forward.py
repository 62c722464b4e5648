"""Both towers for training: whole batches of sequences at once, differentiable, in float32.

The same arithmetic as `ttc.model.towers` (a test compares them), laid out for training. A sequence is a
prompt padded on the left to whole chunks, then an answer padded on the right to whole chunks; a chunk is a
block of the denoiser. So one pass of the context tower over a sequence yields the state before every block of
the answer, and the denoiser evaluates all blocks of all sequences as one batch.

Shapes: B sequences, K chunks of S tokens, L = K·S, D hidden size, F conv channels, W conv width, H Mamba
heads, P head dim, N state, V vocabulary. Weights are those of `TowerWeights`.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor
from torch.nn import functional

from ttc.model.config import LayerKind, ModelConfig
from ttc.model.mixers import Weights, relu2_mlp
from ttc.model.towers import TowerWeights, time_embedding
from ttc.plugins.naive import run_naive
from ttc.plugins.residual_stream.naive import rms_norm

__all__ = [
    "Before",
    "Loads",
    "Seeds",
    "block_logits",
    "context_hidden",
    "context_logits",
    "denoiser_logits",
]

Seeds = tuple[tuple[Tensor, ...], ...]
# Layer → tokens that its experts got (experts,), added up over passes.
Loads = dict[int, Tensor]


def context_hidden(
    config: ModelConfig, weights: TowerWeights, ids: Tensor, real: Tensor, size: int, loads: Loads
) -> tuple[Tensor, Seeds]:
    """Read whole sequences.

    Args:
        ids: (B, L) int64.
        real: (B, L) bool, false at padding.
        size: S, tokens per chunk; divides L.
        loads: what the experts get is added here.

    Returns:
        hidden (B, L, D) before the head's norm; per layer, what the denoiser sees: conv (B, K, F, W−1) and
        ssm (B, K, H, P, N) before every chunk for `M`, keys and values (B, KV heads, L, head dim) for `*`,
        else ().
    """
    L = ids.shape[1]
    position = torch.arange(L, device=ids.device)
    visible = (position[:, None] >= position) & (real[:, None, :] | (position[:, None] == position))
    x = functional.embedding(ids, weights.embeddings)
    seeds: list[tuple[Tensor, ...]] = []
    for i, (kind, w) in enumerate(zip(config.layers, weights.layers, strict=True)):
        h = rms_norm(x, w["norm.weight"], config.layer_norm_epsilon)
        seed: tuple[Tensor, ...] = ()
        if kind == LayerKind.MAMBA:
            out, seed = _mamba_sequence(config, w, h, real, size)
        elif kind == LayerKind.ATTENTION:
            keys, values = _keys_values(config, w, h)
            out, seed = _attention(config, w, h, keys, values, visible[:, None]), (keys, values)
        else:
            out = _feed_forward(config, i, kind, w, h, loads)
        x = x + out
        seeds.append(seed)
    return x, tuple(seeds)


def context_logits(config: ModelConfig, weights: TowerWeights, hidden: Tensor) -> Tensor:
    """Logits (…, V) of hidden vectors (…, D)."""
    return functional.linear(rms_norm(hidden, weights.norm, config.layer_norm_epsilon), weights.head)


@dataclass(frozen=True, slots=True)
class Before:
    """What the denoiser sees of the context before each of R blocks, which may be of several sequences.

    Attributes:
        seeds: per layer conv (R, F, W−1) and ssm (R, H, P, N) for `M`, keys and values
            (R, KV heads, L, head dim) for `*`, else ().
        visible: (R, L) bool, the keys of the context before the block.
    """

    seeds: Seeds
    visible: Tensor

    @classmethod
    def of(cls, config: ModelConfig, seeds: Seeds, real: Tensor, size: int, picked: Tensor) -> "Before":
        """Before the `picked` (B, A) bool of the last A chunks of the sequences of `context_hidden`."""
        rows, blocks = picked.nonzero(as_tuple=True)
        chunks = blocks + real.shape[1] // size - picked.shape[1]
        of_row = {
            LayerKind.MAMBA: lambda seed: tuple(tensor[rows, chunks] for tensor in seed),
            LayerKind.ATTENTION: lambda seed: tuple(tensor[rows] for tensor in seed),
        }
        found = tuple(
            of_row[kind](seed) if kind in of_row else ()
            for kind, seed in zip(config.layers, seeds, strict=True)
        )
        earlier = torch.arange(real.shape[1], device=real.device) // size < chunks[:, None]
        return cls(found, earlier & real[rows])

    def rows(self, picked: Tensor) -> "Before":
        """Those of the `picked` (R,) bool blocks."""
        return Before(
            tuple(tuple(tensor[picked] for tensor in seed) for seed in self.seeds), self.visible[picked]
        )

    @classmethod
    def joined(cls, config: ModelConfig, parts: Sequence["Before"]) -> "Before":
        """All blocks of several as one; shorter contexts are padded on the left, where nothing is visible."""
        longest = max(part.visible.shape[1] for part in parts)
        found: list[tuple[Tensor, ...]] = []
        for i, kind in enumerate(config.layers):
            columns = zip(*(part.seeds[i] for part in parts), strict=True)
            if kind == LayerKind.ATTENTION:
                found.append(
                    tuple(
                        torch.cat([functional.pad(c, (0, 0, longest - c.shape[2], 0)) for c in column])
                        for column in columns
                    )
                )
            else:
                found.append(tuple(torch.cat(column) for column in columns))
        visible = [functional.pad(part.visible, (longest - part.visible.shape[1], 0)) for part in parts]
        return cls(tuple(found), torch.cat(visible))


def denoiser_logits(
    config: ModelConfig,
    weights: TowerWeights,
    blocks: Tensor,
    t: Tensor,
    seeds: Seeds,
    real: Tensor,
    loads: Loads,
) -> Tensor:
    """Evaluate every block of the answers, each over the context tower's state before it.

    Args:
        blocks: (B, A, S) int64, the last A chunks of each sequence.
        t: (B, A) share of masked positions.
        seeds, real: of `context_hidden`.
        loads: as there.

    Returns:
        logits (B, A, S, V).
    """
    before = Before.of(config, seeds, real, blocks.shape[2], torch.ones_like(t, dtype=torch.bool))
    logits = block_logits(config, weights, blocks.flatten(0, 1), t.flatten(), before, loads)
    return logits.view(*blocks.shape, -1)


def block_logits(
    config: ModelConfig, weights: TowerWeights, blocks: Tensor, t: Tensor, before: Before, loads: Loads
) -> Tensor:
    """Evaluate single blocks (R, S) with shares of masks t (R,), each after its own context: (R, S, V)."""
    whole = torch.ones_like(blocks, dtype=torch.bool)
    visible = torch.cat([before.visible, whole], dim=1)[:, None, None]  # (R, 1, 1, L + S)
    x = functional.embedding(blocks, weights.embeddings)
    modulation = time_embedding(config, weights.time, t, x.dtype)
    for i, (kind, w, seed) in enumerate(zip(config.layers, weights.layers, before.seeds, strict=True)):
        shift, scale, gate = (modulation + w["scale_shift_table"]).chunk(3, dim=1)
        norm, eps = w["norm.weight"], config.layer_norm_epsilon
        if kind in (LayerKind.MAMBA, LayerKind.ATTENTION):
            h = rms_norm(x * (1 + scale) + shift, norm, eps)
        else:
            h = rms_norm(x, norm, eps) * (1 + scale) + shift
        if kind == LayerKind.MAMBA:
            out = _mamba_blocks(config, w, h, *seed)
        elif kind == LayerKind.ATTENTION:
            own_keys, own_values = _keys_values(config, w, h)
            keys, values = torch.cat([seed[0], own_keys], 2), torch.cat([seed[1], own_values], 2)
            out = _attention(config, w, h, keys, values, visible)
        else:
            out = _feed_forward(config, i, kind, w, h, loads)
        x = x + gate * out
    return context_logits(config, weights, x)


def _mamba_sequence(
    config: ModelConfig, w: Weights, h: Tensor, real: Tensor, size: int
) -> tuple[Tensor, tuple[Tensor, Tensor]]:
    """The mixer over whole sequences from an empty state, and the states before every chunk.

    Padding leaves the state as it is: its conv columns are zero, its time steps too.
    """
    B, L, _ = h.shape
    z, xbc, dt = _project(config, w, h)
    xbc = xbc * real[..., None]
    before = config.conv_kernel - 1
    columns = functional.pad(xbc, (0, 0, before, 0))
    activated = _convolve(w, columns, L)
    step = functional.softplus(dt + w["mixer.dt_bias"]) * real[..., None]
    x, b, c = _split(config, activated)
    chunks = [tensor.unflatten(1, (L // size, size)).flatten(0, 1) for tensor in (x, b, c, step)]
    within, decay, gained, arriving = _chunk(config, w, *chunks)

    state = gained.new_zeros(B, *gained.shape[1:])
    states = []
    for k in range(L // size):
        states.append(state)
        state = (
            state * decay.view(B, -1, *decay.shape[1:])[:, k, :, None, None]
            + gained.view(B, -1, *gained.shape[1:])[:, k]
        )
    ssm = torch.stack(states, dim=1)
    y = within + _from_state(chunks[2], arriving, ssm.flatten(0, 1))
    ends = torch.arange(0, L, size, device=h.device)[:, None] + torch.arange(before, device=h.device)
    conv = columns[:, ends].transpose(2, 3)  # (B, K, F, W−1): the raw columns before each chunk
    return _finish(config, w, y.reshape(B, L, -1) + _skip(w, x), z), (conv, ssm)


def _mamba_blocks(config: ModelConfig, w: Weights, h: Tensor, conv: Tensor, ssm: Tensor) -> Tensor:
    """The mixer over single blocks (R, S, D), each from its own state."""
    z, xbc, dt = _project(config, w, h)
    activated = _convolve(w, torch.cat([conv.transpose(1, 2), xbc], dim=1), h.shape[1])
    x, b, c = _split(config, activated)
    step = functional.softplus(dt + w["mixer.dt_bias"])
    within, _, _, arriving = _chunk(config, w, x, b, c, step)
    y = within + _from_state(c, arriving, ssm)
    return _finish(config, w, y.flatten(2) + _skip(w, x), z)


def _project(config: ModelConfig, w: Weights, h: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    projected = functional.linear(h, w["mixer.in_proj.weight"])
    z, xbc, dt = projected.split([config.d_inner, config.conv_dim, config.mamba_num_heads], dim=-1)
    return z, xbc, dt


def _convolve(w: Weights, columns: Tensor, length: int) -> Tensor:
    """Depthwise causal convolution over columns (B, W−1 + length, F), then SiLU."""
    kernel = w["mixer.conv1d.weight"][:, 0]
    out = w["mixer.conv1d.bias"] + sum(
        columns[:, j : j + length] * kernel[:, j] for j in range(kernel.shape[1])
    )
    return functional.silu(out)


def _split(config: ModelConfig, activated: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """x (B, L, H, P), b and c (B, L, groups, N)."""
    wide = config.n_groups * config.ssm_state_size
    x, b, c = activated.split([config.d_inner, wide, wide], dim=-1)
    groups = (config.n_groups, config.ssm_state_size)
    return x.unflatten(-1, (config.mamba_num_heads, -1)), b.unflatten(-1, groups), c.unflatten(-1, groups)


def _chunk(
    config: ModelConfig, w: Weights, x: Tensor, b: Tensor, c: Tensor, step: Tensor
) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """The recurrence inside chunks (R, S, …) in closed form.

    Returns:
        output from tokens of the same chunk (R, S, H, P); decay over the chunk (R, H); what the chunk adds to
        the state (R, H, P, N); decay from the chunk's start to each position (R, S, H).
    """
    per_group = config.mamba_num_heads // config.n_groups
    S = x.shape[1]
    total = (step * -w["mixer.A_log"].exp()).cumsum(1)  # (R, S, H), log of the decay
    rows = total.transpose(1, 2)  # (R, H, S)
    causal = torch.ones(S, S, dtype=torch.bool, device=x.device).tril()
    decays = (rows[..., :, None] - rows[..., None, :]).masked_fill(~causal, -torch.inf).exp()
    scores = c.transpose(1, 2) @ b.permute(0, 2, 3, 1)  # (R, groups, S, S)
    mixing = scores.repeat_interleave(per_group, dim=1) * decays
    stepped = (x * step[..., None]).transpose(1, 2)  # (R, H, S, P)
    within = (mixing @ stepped).transpose(1, 2)
    remaining = (rows[..., -1:] - rows).exp()  # (R, H, S)
    heads_b = b.transpose(1, 2).repeat_interleave(per_group, dim=1)  # (R, H, S, N)
    gained = (stepped * remaining[..., None]).transpose(2, 3) @ heads_b
    return within, rows[..., -1].exp(), gained, total.exp()


def _from_state(c: Tensor, arriving: Tensor, ssm: Tensor) -> Tensor:
    """What the state before a chunk contributes: (R, S, H, P)."""
    heads_c = c.transpose(1, 2).repeat_interleave(ssm.shape[1] // c.shape[2], dim=1)  # (R, H, S, N)
    return (heads_c @ ssm.transpose(2, 3)).transpose(1, 2) * arriving[..., None]


def _skip(w: Weights, x: Tensor) -> Tensor:
    return (x * w["mixer.D"][:, None]).flatten(2)


def _finish(config: ModelConfig, w: Weights, y: Tensor, z: Tensor) -> Tensor:
    gated = (y * functional.silu(z)).unflatten(-1, (config.n_groups, -1))
    scale = torch.rsqrt(gated.square().mean(-1, keepdim=True) + config.layer_norm_epsilon)
    return functional.linear((gated * scale).flatten(-2) * w["mixer.norm.weight"], w["mixer.out_proj.weight"])


# Attention and experts.


def _keys_values(config: ModelConfig, w: Weights, h: Tensor) -> tuple[Tensor, Tensor]:
    heads = (config.num_key_value_heads, config.head_dim)
    keys = functional.linear(h, w["mixer.k_proj.weight"]).unflatten(-1, heads).transpose(1, 2)
    values = functional.linear(h, w["mixer.v_proj.weight"]).unflatten(-1, heads).transpose(1, 2)
    return keys, values


def _attention(
    config: ModelConfig, w: Weights, h: Tensor, keys: Tensor, values: Tensor, visible: Tensor
) -> Tensor:
    """visible: (B, 1, queries or 1, keys) bool."""
    heads = (config.num_attention_heads, config.head_dim)
    queries = functional.linear(h, w["mixer.q_proj.weight"]).unflatten(-1, heads).transpose(1, 2)
    per_kv = config.num_attention_heads // config.num_key_value_heads
    mixed = functional.scaled_dot_product_attention(
        queries, keys.repeat_interleave(per_kv, 1), values.repeat_interleave(per_kv, 1), attn_mask=visible
    )
    return functional.linear(mixed.transpose(1, 2).flatten(2), w["mixer.o_proj.weight"])


def _feed_forward(
    config: ModelConfig, layer: int, kind: LayerKind, w: Weights, h: Tensor, loads: Loads
) -> Tensor:
    if kind == LayerKind.MLP:
        return relu2_mlp(run_naive, h, w["mixer.up_proj.weight"], w["mixer.down_proj.weight"])
    tokens = h.flatten(0, -2)
    scores = functional.linear(tokens, w["mixer.gate.weight"]).sigmoid()
    chosen = (
        (scores.detach() + w["mixer.gate.e_score_correction_bias"]).topk(config.num_experts_per_tok).indices
    )
    weights = scores.gather(1, chosen)
    if config.norm_topk_prob:
        weights = weights / (weights.sum(-1, keepdim=True) + 1e-20)
    weights = weights * config.routed_scaling_factor

    pairs = chosen.flatten().argsort(stable=True)
    counts = chosen.flatten().bincount(minlength=config.n_routed_experts)
    rows = pairs // config.num_experts_per_tok
    parts: Sequence[Tensor] = tokens[rows].split(counts.tolist())
    up, down = w["mixer.experts.up_proj.weight"], w["mixer.experts.down_proj.weight"]
    routed = torch.cat([relu2_mlp(run_naive, part, up[e], down[e]) for e, part in enumerate(parts)])
    routed = torch.zeros_like(tokens).index_add(0, rows, routed * weights.flatten()[pairs, None])
    loads[layer] = loads.get(layer, 0) + counts
    shared = relu2_mlp(
        run_naive, h, w["mixer.shared_experts.up_proj.weight"], w["mixer.shared_experts.down_proj.weight"]
    )
    return routed.view(h.shape) + shared
