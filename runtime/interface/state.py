"""The context state of a batch: what the context tower has read so far, in a backend's own tensors."""

from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

__all__ = ["ContextState"]


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
