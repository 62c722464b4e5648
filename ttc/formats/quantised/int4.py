"""int4: codes −8 … 7 and a bfloat16 scale for each group of 32 inputs, w = code · scale.

The scale is amax / 7.5, as compressed-tensors has it. It is rounded to bfloat16 before the codes are chosen,
so that a graph computed in bfloat16 has the very scale that they were chosen for.
"""

from collections.abc import Mapping
from typing import Any

import ml_dtypes
import numpy as np
import numpy.typing as npt

from ttc.formats.quantised.nibbles import pack, unpack

__all__ = ["GROUP", "decode", "encode"]

Array = npt.NDArray[Any]

GROUP = 32
_LEAST_SCALE = np.float32(2**-126)  # the least normal number


def encode(matrix: Array) -> dict[str, Array]:
    """Return weight uint8 (N, K/2), even k in the low half, and weight_scale bfloat16 (N, K/32) of (N, K).

    K is divisible by 32.
    """
    outputs, inputs = matrix.shape
    groups = matrix.astype(np.float32).reshape(outputs, inputs // GROUP, GROUP)
    largest = np.abs(groups).max(axis=2)
    scale = np.maximum(largest / np.float32(7.5), _LEAST_SCALE).astype(ml_dtypes.bfloat16)
    scale[largest == 0] = 1.0
    in_scale = groups / scale.astype(np.float32)[..., np.newaxis]
    codes = np.clip(np.rint(in_scale), -8, 7).astype(np.int8).view(np.uint8)
    return {"weight": pack(codes.reshape(outputs, inputs)), "weight_scale": scale}


def decode(stored: Mapping[str, Array]) -> npt.NDArray[np.float32]:
    """Return float32 (N, K); the width of a group is what the scales' shape says."""
    scale = stored["weight_scale"].astype(np.float32)
    outputs, groups = scale.shape
    codes = unpack(stored["weight"]).view(np.int8)
    signed = ((codes ^ 8) - 8).astype(np.float32).reshape(outputs, groups, -1)
    signed *= scale[..., np.newaxis]
    return signed.reshape(outputs, -1)
