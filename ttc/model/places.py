"""Where the context state of a call's rows lies, for `ttc.model.fused_towers`: in tensors that hold those
rows and nothing else, or in a pool that other rows share.

    Dense    Mamba states (B, …) and caches (B, KV heads, C, head dim): row b of the call is row b
    Pooled   Mamba states (R, …) and pages (U, KV heads, 16, head dim): row b has its Mamba states at
             rows[b], and token p of its context in page pages[b, p div 16]
"""

from dataclasses import dataclass, field

import torch
from torch import Tensor

__all__ = ["Dense", "Place", "Pooled"]


@dataclass(frozen=True, slots=True, eq=False)
class Dense:
    """In tensors of its own.

    Attributes:
        lengths: (B,) int32 context tokens.
        rows: (B,) int32, 0 … B − 1.
    """

    lengths: Tensor
    rows: Tensor = field(init=False)

    def __post_init__(self) -> None:
        rows = torch.arange(len(self.lengths), dtype=torch.int32, device=self.lengths.device)
        object.__setattr__(self, "rows", rows)

    @property
    def pages(self) -> Tensor:
        """(B, 1) int32: a cache is one page for each row."""
        return self.rows[:, None]


@dataclass(frozen=True, slots=True, eq=False)
class Pooled:
    """In a pool.

    Attributes:
        rows: (B,) int32.
        pages: (B, O) int32; those behind what a row needs are not read, and not written unless the block
            reaches there.
        lengths: (B,) int32 context tokens.
    """

    rows: Tensor
    pages: Tensor
    lengths: Tensor


Place = Dense | Pooled
