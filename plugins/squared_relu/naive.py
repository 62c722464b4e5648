"""The meaning of `SquaredRelu` in torch."""

from torch import Tensor
from torch.nn import functional

__all__ = ["squared_relu"]


def squared_relu(x: Tensor) -> tuple[Tensor]:
    """Return relu(x)²: (B, L, S) in x's dtype."""
    return (functional.relu(x).square(),)
