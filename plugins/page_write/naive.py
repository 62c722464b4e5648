"""The meaning of `PageWrite` in torch."""

import torch
from torch import Tensor

__all__ = ["page_write", "write_pages"]


def page_write(
    keys: Tensor, values: Tensor, key_pages: Tensor, value_pages: Tensor, pages: Tensor, lengths: Tensor
) -> tuple[Tensor, Tensor]:
    """Return both pools of pages (U, J, Z, Y) with the block written; arguments as of `write_pages`."""
    return write_pages(keys, values, key_pages.clone(), value_pages.clone(), pages, lengths)


def write_pages(
    keys: Tensor, values: Tensor, key_pages: Tensor, value_pages: Tensor, pages: Tensor, lengths: Tensor
) -> tuple[Tensor, Tensor]:
    """Write a block's keys and values into the pages themselves, and return those.

    Args:
        keys: (B, L, J·Y).
        values: (B, L, J·Y).
        key_pages: (U, J, Z, Y).
        value_pages: (U, J, Z, Y).
        pages: (B, O) int32; token p of row b is token p mod Z of page pages[b, p div Z].
        lengths: (B,) int32, the row's token that the block begins with; lengths + L ≤ O·Z.
    """
    B, L, _ = keys.shape
    _, J, Z, Y = key_pages.shape
    positions = lengths.long()[:, None] + torch.arange(L, device=keys.device)
    page, within = pages.long().gather(1, positions // Z), positions % Z
    for pool, tokens in ((key_pages, keys), (value_pages, values)):
        pool.transpose(1, 2)[page, within] = tokens.view(B, L, J, Y)
    return key_pages, value_pages
