"""The meaning of `GatedGroupNorm` in torch; see docs/model.md, "Mamba-2"."""

import torch
from torch import Tensor
from torch.nn import functional

__all__ = ["gated_group_norm"]


def gated_group_norm(y: Tensor, z: Tensor, weight: Tensor, *, G: int, epsilon: float) -> tuple[Tensor]:
    """Return g / rms of its group(g) · weight with g = y·silu(z).

    Args:
        y: (B, L, M) compute dtype.
        z: (B, L, M) compute dtype.
        weight: (M,) compute dtype.
        G: groups of neighbouring channels; divides M.
        epsilon: added to the mean square.

    Returns:
        (B, L, M) compute dtype.
    """
    gated = (y.float() * functional.silu(z.float())).unflatten(-1, (G, y.shape[-1] // G))
    scale = torch.rsqrt(gated.square().mean(-1, keepdim=True) + epsilon)
    return (((gated * scale).flatten(-2) * weight.float()).to(y.dtype),)
