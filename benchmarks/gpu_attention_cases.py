"""Attention over contexts of several lengths, dense and in pages, in one launch and by parts; and writing."""

from collections.abc import Iterator

import torch
from torch import Tensor

from benchmarks.gpu_bed import Bed, Case
from ttc.plugins.attention_splits import splits_of
from ttc.plugins.block_attention import BLOCK_ATTENTION, SPLIT_ATTENTION
from ttc.plugins.page_write import PAGE_WRITE
from ttc.plugins.paged_attention import PAGED_ATTENTION, SPLIT_PAGED_ATTENTION

__all__ = ["attention_cases"]


def attention_cases(bed: Bed) -> Iterator[Case]:
    """Yield the cases; all rows have a full context."""
    small, large = ((1, 2, 32),), ((1, 1, 2048), (1, 1, 8192), (1, 16, 2048), (8, 16, 2048))
    for B, L, C in small if bed.small else large:
        yield from _cases_of(bed, B, L, C)


def _cases_of(bed: Bed, B: int, L: int, C: int) -> Iterator[Case]:
    c, where = bed.config, f"B={B} L={L} context={C}"
    J, Y, A = c.num_key_value_heads, c.head_dim, c.num_attention_heads
    pages = B * C // 16

    def block() -> list[Tensor]:
        return [bed.randn(B, L, width) for width in (A * Y, J * Y, J * Y)]

    def dense() -> list[Tensor]:
        caches = [bed.randn(B, J, C, Y) for _ in range(2)]
        return [*block(), *caches, bed.full((B,), C, torch.int32)]

    def pool(tokens: int) -> list[Tensor]:
        """Pages in no order, of which rows have so many tokens."""
        order = torch.randperm(pages, device=bed.timer.device).int().view(B, -1)
        return [*(bed.randn(pages, J, 16, Y) for _ in range(2)), order, bed.full((B,), tokens, torch.int32)]

    moved = 4.0 * B * J * Y * (C + L) + 4.0 * B * L * A * Y
    for in_pages in (False, True):
        parts = {"X": max(splits_of(B, L, A, J, C), 2), "A": A}
        make = (lambda: [*block(), *pool(C)]) if in_pages else dense
        one, split = (
            (PAGED_ATTENTION, SPLIT_PAGED_ATTENTION) if in_pages else (BLOCK_ATTENTION, SPLIT_ATTENTION)
        )
        yield f"{one.name} {where}", one, make, moved, {"causal": 0}
        yield f"{split.name} {where} parts={parts['X']}", split, make, moved, {"causal": 0} | parts
    yield f"PageWrite {where}", PAGE_WRITE, lambda: [*block()[1:], *pool(C - L)], 8.0 * B * L * J * Y, {}
