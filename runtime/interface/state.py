"""The context state of a batch: what the context tower has read so far, in a backend's own tensors."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from ttc.model.config import ModelConfig

__all__ = ["ContextState", "StateTensor", "state_layout"]


@dataclass(frozen=True, slots=True)
class StateTensor:
    """One state tensor of one layer: graph name, shape for a batch of one, and whether it is float32 whatever
    the dtype.
    """

    name: str
    shape: tuple[int, ...]
    float32: bool


@dataclass(slots=True)
class ContextState:
    """State of B rows.

    Attributes:
        capacity: tokens the attention caches hold.
        lengths: (B,) int32 tokens each row has committed.
        tensors: graph name → the backend's tensor. Only `Backend.context` and `Backend.advance` put new ones
            in.
    """

    capacity: int
    lengths: npt.NDArray[np.int32]
    tensors: dict[str, Any]

    @property
    def batch(self) -> int:
        """Number of rows."""
        return int(self.lengths.shape[0])


def state_layout(config: ModelConfig, capacity: int) -> Sequence[StateTensor]:
    """All state tensors in layer order (spec § 4)."""
    layout: list[StateTensor] = []
    for i, kind in enumerate(config.pattern):
        if kind == "M":
            ssm = (config.mamba_num_heads, config.mamba_head_dim, config.ssm_state_size)
            layout.append(StateTensor(f"conv_state.{i}", (config.conv_dim, config.conv_kernel - 1), False))
            layout.append(StateTensor(f"ssm_state.{i}", ssm, True))
        elif kind == "*":
            cache = (config.num_key_value_heads, capacity, config.head_dim)
            layout.append(StateTensor(f"k_cache.{i}", cache, False))
            layout.append(StateTensor(f"v_cache.{i}", cache, False))
    return layout
