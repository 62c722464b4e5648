"""The meaning of the residual stream's ops in torch; see docs/model.md, "Time conditioning".

Shapes: x, out, shared (B, L, D) in the compute dtype, routed (B, L, D) float32, modulation (B, 3, D), t (B,)
float32, table (3, D), weight (D,).
"""

import torch
from torch import Tensor

__all__ = [
    "gated_mixture_residual",
    "gated_residual",
    "mixture_residual",
    "modulated_norm",
    "norm_modulated",
    "rms_norm",
    "stream_norm",
]


def stream_norm(x: Tensor, weight: Tensor, *, epsilon: float) -> tuple[Tensor]:
    """Return x / rms(x) · weight."""
    return (rms_norm(x, weight, epsilon),)


def modulated_norm(
    x: Tensor, modulation: Tensor, t: Tensor, table: Tensor, weight: Tensor, *, epsilon: float
) -> tuple[Tensor]:
    """Return norm(x·(1 + scale) + shift)."""
    shift, scale, _ = _of_layer(modulation, t, table)
    return (rms_norm(x * (1 + scale) + shift, weight, epsilon),)


def norm_modulated(
    x: Tensor, modulation: Tensor, t: Tensor, table: Tensor, weight: Tensor, *, epsilon: float
) -> tuple[Tensor]:
    """Return norm(x)·(1 + scale) + shift."""
    shift, scale, _ = _of_layer(modulation, t, table)
    return (rms_norm(x, weight, epsilon) * (1 + scale) + shift,)


def mixture_residual(x: Tensor, routed: Tensor, shared: Tensor) -> tuple[Tensor]:
    """Return x + routed + shared."""
    return (x + (routed.to(x.dtype) + shared),)


def gated_residual(x: Tensor, out: Tensor, modulation: Tensor, t: Tensor, table: Tensor) -> tuple[Tensor]:
    """Return x + gate·out."""
    _, _, gate = _of_layer(modulation, t, table)
    return (x + gate * out,)


def gated_mixture_residual(
    x: Tensor, routed: Tensor, shared: Tensor, modulation: Tensor, t: Tensor, table: Tensor
) -> tuple[Tensor]:
    """Return x + gate·(routed + shared)."""
    return gated_residual(x, routed.to(x.dtype) + shared, modulation, t, table)


def rms_norm(x: Tensor, weight: Tensor, eps: float) -> Tensor:
    """Return x / rms(x) · weight over the last axis, computed in float32 and cast back."""
    wide = x.float()
    return (wide * torch.rsqrt(wide.square().mean(-1, keepdim=True) + eps) * weight.float()).to(x.dtype)


def _of_layer(modulation: Tensor, t: Tensor, table: Tensor) -> tuple[Tensor, ...]:
    """Return shift, scale and gate of one layer, each (B, 1, D)."""
    neutral = (torch.arange(3, device=table.device) == 2).to(table.dtype)[:, None]  # shift 0, scale 0, gate 1
    conditioned = (t >= 0)[:, None, None]
    return torch.where(conditioned, modulation + table, neutral).chunk(3, dim=1)
