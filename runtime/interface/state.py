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
            in; `restore` puts back those of a snapshot.
    """

    capacity: int
    lengths: npt.NDArray[np.int32]
    tensors: dict[str, Any]

    def snapshot(self) -> "ContextState":
        """Return what `restore` needs to undo the next call. Nothing is copied: the tensors are shared."""
        return ContextState(self.capacity, self.lengths, self.tensors)

    def restore(self, snapshot: "ContextState") -> None:
        """Undo the calls since `snapshot`, but for what a backend on a GPU wrote into tensors in place."""
        self.tensors, self.lengths = snapshot.tensors, snapshot.lengths

    def rewind(self, lengths: npt.NDArray[np.int32]) -> None:
        """Count fewer tokens as read: keys and values after them no longer count.

        Convolution and scan states stay as they are, so this is for measuring, not for decoding.
        """
        self.lengths = lengths

    @property
    def batch(self) -> int:
        """Number of rows."""
        return int(self.lengths.shape[0])
