"""The meaning of `BlockAttention` in torch; see docs/model.md, "Attention"."""

import torch
from torch import Tensor

__all__ = ["block_attention"]


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
    B, L, Q = queries.shape
    _, J, C, Y = cached_keys.shape
    per_kv = Q // (J * Y)
    folded = queries.view(B, L, J, per_kv, Y).transpose(1, 2).reshape(B, J, L * per_kv, Y)
    own_keys = keys.view(B, L, J, Y).transpose(1, 2)
    own_values = values.view(B, L, J, Y).transpose(1, 2)
    scale = Y**-0.5
    # (B, J, L · heads per KV head, keys)
    over_cache = (folded @ cached_keys.transpose(2, 3)).float() * scale
    over_block = (folded @ own_keys.transpose(2, 3)).float() * scale
    in_context = torch.arange(C, dtype=torch.int32, device=queries.device) < lengths[:, None]
    over_cache = torch.where(in_context[:, None, None, :], over_cache, -torch.inf)
    if causal:
        key = torch.arange(L, dtype=torch.int32, device=queries.device)
        token = torch.arange(L * per_kv, dtype=torch.int32, device=queries.device) // per_kv
        over_block = torch.where(key <= token[:, None], over_block, -torch.inf)
    weight = torch.cat([over_cache, over_block], dim=-1).softmax(-1).to(queries.dtype)
    weight_cache, weight_block = weight.split([C, L], dim=-1)
    mixed = weight_cache @ cached_values + weight_block @ own_values
    return (mixed.view(B, J, L, per_kv, Y).transpose(1, 2).reshape(B, L, Q),)
