"""Weights in the formats of eight and four bits as the ops take them, made here and not by the codec.

The plainest encoders there can be: every scale is what the largest weight needs, every weight goes to the
nearest code.
"""

from dataclasses import dataclass

import torch
from torch import Tensor

EIGHT_BITS = ("int8", "float8_e4m3fn")
FOUR_BITS = ("float4_e2m1fn", "int4")
GROUP = {"float4_e2m1fn": 16, "int4": 32}
_E2M1 = torch.tensor([0, 0.5, 1, 1.5, 2, 3, 4, 6, -0.0, -0.5, -1, -1.5, -2, -3, -4, -6])


@dataclass
class Stored:
    """A stack of experts as an op takes it: weights, then their scales; and the numbers that they mean."""

    tensors: tuple[Tensor, ...]
    means: Tensor


def store(weights: Tensor, stored: str, compute: torch.dtype = torch.float32) -> Stored:
    """Encode (E, OUT, IN) weights; `means` is what they are without any rounding of the compute dtype."""
    if stored in EIGHT_BITS:
        top = 127.0 if stored == "int8" else 448.0
        scale = (weights.abs().amax(-1) / top).clamp(min=1e-30)
        ratio = weights / scale[..., None]
        codes = ratio.round().to(torch.int8) if stored == "int8" else ratio.to(torch.float8_e4m3fn)
        return Stored((codes, scale), codes.float() * scale[..., None])
    experts, out, width = weights.shape
    groups = weights.view(experts, out, -1, GROUP[stored])
    if stored == "int4":
        scale = (groups.abs().amax(-1) / 7).clamp(min=1e-30).to(compute)
        codes = (groups / scale.float()[..., None]).round().clamp(-8, 7)
        numbers, nibbles = codes, codes.to(torch.int8).view(torch.uint8) & 15
        scale_2 = torch.ones(experts)
    else:
        scale_2 = (weights.abs().amax((1, 2)) / (6 * 448)).clamp(min=1e-30)
        ratio = groups.abs().amax(-1) / 6 / scale_2[:, None, None]
        scale = ratio.clamp(2.0**-9, 448).to(torch.float8_e4m3fn)
        whole = scale.float() * scale_2[:, None, None]
        ratio = groups / whole[..., None]
        nearest = torch.bucketize(ratio.abs(), (_E2M1[:7] + _E2M1[1:8]) / 2) + 8 * (ratio < 0)
        numbers, nibbles = _E2M1[nearest], nearest.to(torch.uint8)
    nibbles = nibbles.reshape(experts, out, width)
    packed = nibbles[..., 0::2] | (nibbles[..., 1::2] << 4)
    means = (numbers * scale.float()[..., None]).view(weights.shape) * scale_2[:, None, None]
    return Stored((packed, scale, scale_2), means)
