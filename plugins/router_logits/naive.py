"""The meaning of `RouterLogits` in torch."""

from torch import Tensor
from torch.nn import functional

__all__ = ["router_logits"]


def router_logits(x: Tensor, gate: Tensor) -> tuple[Tensor]:
    """Return gate · token in float32: (T, E) of x (T, D) and gate (E, D) float32."""
    return (functional.linear(x.float(), gate),)
