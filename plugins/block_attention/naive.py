"""The meaning of `BlockAttention` and of its parts in torch; see docs/model.md, "Attention"."""

import torch
from torch import Tensor

from ttc.plugins.attention_splits import GRAIN

__all__ = ["attention_merge", "block_attention", "cache_splits", "split_attention"]


def block_attention(
    queries: Tensor,
    keys: Tensor,
    values: Tensor,
    cached_keys: Tensor,
    cached_values: Tensor,
    lengths: Tensor,
    *,
    causal: int,
) -> tuple[Tensor]:
    """Return softmax(q·k / √Y) · v over the first `lengths` cached tokens and the block.

    Query heads of one KV head are folded into the query axis, so that keys and values are read once and never
    repeated: row r of the folded axis is token r div (heads per KV head).

    Args:
        queries: (B, L, Q), Q = heads · Y, those of one KV head side by side.
        keys: (B, L, J·Y).
        values: (B, L, J·Y).
        cached_keys: (B, J, C, Y).
        cached_values: (B, J, C, Y).
        lengths: (B,) int32, how much of the cache counts.
        causal: 1: a token of the block sees only itself and earlier ones; 0: the whole block.

    Returns:
        (B, L, Q) in the compute dtype.
    """
    J, C, Y = cached_keys.shape[1:]
    folded = _folded(queries, J, Y)
    own_values = _by_head(values, Y)
    # (B, J, L · heads per KV head, keys)
    over_cache = (folded @ cached_keys.transpose(2, 3)).float() * Y**-0.5
    over_block = _over_block(folded, _by_head(keys, Y), causal)
    in_context = torch.arange(C, dtype=torch.int32, device=queries.device) < lengths[:, None]
    over_cache = torch.where(in_context[:, None, None, :], over_cache, -torch.inf)
    weight = torch.cat([over_cache, over_block], dim=-1).softmax(-1).to(queries.dtype)
    weight_cache, weight_block = weight.split([C, keys.shape[1]], dim=-1)
    return (_unfolded(weight_cache @ cached_values + weight_block @ own_values, queries),)


def split_attention(
    queries: Tensor,
    keys: Tensor,
    values: Tensor,
    cached_keys: Tensor,
    cached_values: Tensor,
    lengths: Tensor,
    *,
    causal: int,
    X: int,
    A: int,
) -> tuple[Tensor]:
    """Return the same: the parts X and the query heads A say how it is computed, not what."""
    return block_attention(queries, keys, values, cached_keys, cached_values, lengths, causal=causal)


def cache_splits(
    queries: Tensor, cached_keys: Tensor, cached_values: Tensor, lengths: Tensor, *, X: int, A: int
) -> tuple[Tensor, Tensor]:
    """Return attention over each of X parts of a row's first `lengths` tokens, of which all have the same
    number of grains (`ttc.plugins.attention_splits.GRAIN` tokens) and the last ones what is left.

    Args:
        queries: as of `block_attention`.
        cached_keys: (B, J, C, Y).
        cached_values: (B, J, C, Y).
        lengths: (B,) int32; held to 0 … C.
        X: how many parts.
        A: query heads, Q / Y.

    Returns:
        partial: (B, X, L, Q) float32, the mean of the part's values; 0 of a part without a token.
        lse: (B, X, L, A) float32, ln Σ exp(score) over the part; −∞ where it has no token.
    """
    J, C, Y = cached_keys.shape[1:]
    B, L, Q = queries.shape
    folded = _folded(queries, J, Y)
    scores = (folded @ cached_keys.transpose(2, 3)).float() * Y**-0.5
    length = lengths.clamp(0, C)
    width = ((length + GRAIN - 1) // GRAIN + X - 1) // X * GRAIN
    place = torch.arange(C, dtype=torch.int32, device=queries.device)
    part = torch.where(place < length[:, None], place // width.clamp(min=1)[:, None], X)
    mine = part[:, None] == torch.arange(X, dtype=torch.int32, device=queries.device)[:, None]
    # (B, X, J, L · heads per KV head, C)
    scores = torch.where(mine[:, :, None, None, :], scores[:, None], -torch.inf)
    lse = scores.logsumexp(-1)
    weight = (scores - torch.where(lse == -torch.inf, 0.0, lse)[..., None]).exp().to(queries.dtype)
    mixed = (weight @ cached_values[:, None]).float()
    partial = mixed.view(B, X, J, L, -1, Y).transpose(2, 3).reshape(B, X, L, Q)
    return partial, lse.view(B, X, J, L, -1).transpose(2, 3).reshape(B, X, L, A)


def attention_merge(
    queries: Tensor, keys: Tensor, values: Tensor, partial: Tensor, lse: Tensor, *, causal: int
) -> tuple[Tensor]:
    """Return attention (B, L, Q) over the parts of a context and the block: a part weighs exp(lse).

    Args:
        queries: as of `block_attention`, like the next two and `causal`.
        keys: (B, L, J·Y).
        values: (B, L, J·Y).
        partial: (B, X, L, Q) float32, what `cache_splits` gave.
        lse: (B, X, L, A) float32, too.
        causal: 1 or 0.
    """
    B, X, L, A = lse.shape
    Y = queries.shape[2] // A
    J = keys.shape[2] // Y
    over_block = _over_block(_folded(queries, J, Y), _by_head(keys, Y), causal)
    of_parts = lse.view(B, X, L, J, -1).permute(0, 3, 2, 4, 1).reshape(B, J, -1, X)
    weight = torch.cat([of_parts, over_block], dim=-1).softmax(-1)
    of_parts, of_block = weight.split([X, L], dim=-1)
    own = _unfolded((of_block.to(queries.dtype) @ _by_head(values, Y)).float(), queries)
    by_head = of_parts.reshape(B, J, L, -1, X).permute(0, 4, 2, 1, 3).reshape(B, X, L, A)
    means = torch.where(by_head[..., None] == 0, 0.0, by_head[..., None] * partial.view(B, X, L, A, Y))
    return ((own + means.sum(1).view(own.shape)).to(queries.dtype),)


def _folded(queries: Tensor, J: int, Y: int) -> Tensor:
    """Return queries as (B, J, L · heads per KV head, Y)."""
    B, L, Q = queries.shape
    return queries.view(B, L, J, Q // (J * Y), Y).transpose(1, 2).reshape(B, J, L * (Q // (J * Y)), Y)


def _unfolded(mixed: Tensor, queries: Tensor) -> Tensor:
    """Return what was folded as (B, L, Q) again."""
    (B, L, Q), (J, Y) = queries.shape, (mixed.shape[1], mixed.shape[3])
    return mixed.view(B, J, L, Q // (J * Y), Y).transpose(1, 2).reshape(B, L, Q)


def _by_head(tensor: Tensor, Y: int) -> Tensor:
    B, L, width = tensor.shape
    return tensor.view(B, L, width // Y, Y).transpose(1, 2)


def _over_block(folded: Tensor, own_keys: Tensor, causal: int) -> Tensor:
    """Return the scores (B, J, L · heads per KV head, L) of the block itself."""
    scale: float = folded.shape[3] ** -0.5
    scores = (folded @ own_keys.transpose(2, 3)).float() * scale
    if not causal:
        return scores
    L, rows = own_keys.shape[2], folded.shape[2]
    key = torch.arange(L, dtype=torch.int32, device=folded.device)
    token = torch.arange(rows, dtype=torch.int32, device=folded.device) // (rows // L)
    return torch.where(key <= token[:, None], scores, -torch.inf)
