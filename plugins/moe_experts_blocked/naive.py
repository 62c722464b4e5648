"""The meaning of `MoeExpertsBlocked` and its two products in torch: a loop over the experts that were hit.

Weights are uint8 here, two in a byte; what they are follows from the dtype of their scales
(`ttc.plugins.torch_tensors`).
"""

import torch
from torch import Tensor

from ttc.plugins.moe_experts.naive import moe_combine, rows_by_expert

__all__ = ["moe_down_blocked", "moe_experts_blocked", "moe_up_blocked"]

# Of float4_e2m1fn, by code: a sign, two bits of exponent, one of mantissa.
_E2M1 = (0.0, 0.5, 1.0, 1.5, 2.0, 3.0, 4.0, 6.0, -0.0, -0.5, -1.0, -1.5, -2.0, -3.0, -4.0, -6.0)
_INT4 = (*range(8), *range(-8, 0))


def moe_experts_blocked(
    x: Tensor,
    up: Tensor,
    up_scale: Tensor,
    up_scale_2: Tensor,
    down: Tensor,
    down_scale: Tensor,
    down_scale_2: Tensor,
    expert_ids: Tensor,
    weights: Tensor,
    grouped_pairs: Tensor,
    grouped_rows: Tensor,
    expert_offsets: Tensor,
) -> tuple[Tensor]:
    """Return `MoeExperts` of the weights up·up_scale·up_scale_2 and down·down_scale·down_scale_2.

    Args:
        x: (T, D) compute dtype.
        up: (E, I, D / 2) uint8.
        up_scale: (E, I, DB) float8_e4m3fn, or the compute dtype.
        up_scale_2: (E,) float32.
        down: (E, D, I / 2) uint8.
        down_scale: (E, D, IB) as up_scale.
        down_scale_2: (E,) float32.
        expert_ids: (T, K) int32; this and what follows as `MoeRouting` returns it.
        weights: (T, K) float32.
        grouped_pairs: (T·K,) int32.
        grouped_rows: (T, K) int32.
        expert_offsets: (E + 1,) int32.

    Returns:
        (T, D) float32.
    """
    (activated,) = moe_up_blocked(x, up, up_scale, up_scale_2, expert_ids, grouped_pairs, expert_offsets)
    (rows,) = moe_down_blocked(
        activated, down, down_scale, down_scale_2, expert_ids, grouped_pairs, expert_offsets
    )
    return moe_combine(rows, weights, grouped_rows)


def moe_up_blocked(
    x: Tensor,
    up: Tensor,
    up_scale: Tensor,
    up_scale_2: Tensor,
    expert_ids: Tensor,
    grouped_pairs: Tensor,
    expert_offsets: Tensor,
) -> tuple[Tensor]:
    """Return relu((up·up_scale·x)·up_scale_2)² of every pair: (T·K, I) in x's dtype."""
    tokens = grouped_pairs.long() // expert_ids.shape[1]
    activated = x.new_empty(grouped_pairs.shape[0], up.shape[1])
    for expert, rows in rows_by_expert(expert_offsets):
        weight = _decoded(up[expert], up_scale[expert], x.dtype)
        scaled = (x[tokens[rows]].float() @ weight.T) * up_scale_2[expert]
        activated[rows] = torch.relu(scaled).square().to(x.dtype)
    return (activated,)


def moe_down_blocked(
    activated: Tensor,
    down: Tensor,
    down_scale: Tensor,
    down_scale_2: Tensor,
    expert_ids: Tensor,
    grouped_pairs: Tensor,
    expert_offsets: Tensor,
) -> tuple[Tensor]:
    """Return (down·down_scale·activated)·down_scale_2 of every pair: (T·K, D) float32."""
    out = activated.new_empty(activated.shape[0], down.shape[1], dtype=torch.float32)
    for expert, rows in rows_by_expert(expert_offsets):
        weight = _decoded(down[expert], down_scale[expert], activated.dtype)
        out[rows] = (activated[rows].float() @ weight.T) * down_scale_2[expert]
    return (out,)


def _decoded(packed: Tensor, scale: Tensor, compute: torch.dtype) -> Tensor:
    """Return code·scale rounded to the compute dtype, as float32.

    Args:
        packed: (OUT, IN / 2) uint8.
        scale: (OUT, groups).
        compute: the dtype to round to.
    """
    values = _E2M1 if scale.dtype == torch.float8_e4m3fn else _INT4
    table = torch.tensor(values, dtype=torch.float32, device=packed.device)
    codes = torch.stack((packed & 15, packed >> 4), -1).flatten(-2)
    numbers = table[codes.long()].unflatten(-1, (scale.shape[-1], -1))
    decoded: Tensor = (numbers * scale.float()[..., None]).flatten(-2).to(compute).float()
    return decoded
