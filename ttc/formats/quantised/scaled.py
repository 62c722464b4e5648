"""What int8 and fp8 share: one float32 scale for each output, w = code · scale."""

from collections.abc import Mapping
from typing import Any

import numpy as np
import numpy.typing as npt

__all__ = ["decode_scaled", "per_output"]

Array = npt.NDArray[Any]


def per_output(matrix: Array, top: float) -> tuple[npt.NDArray[np.float32], npt.NDArray[np.float32]]:
    """Return the scales (N,) that put each output's largest weight at `top`, and (N, K) divided by them."""
    wide = matrix.astype(np.float32)
    scale = np.divide(np.abs(wide).max(axis=1), top, dtype=np.float32)
    scale[scale == 0] = 1.0
    # A subnormal scale is coarse: without the limit the largest weight could pass the top.
    return scale, np.clip(wide / scale[:, np.newaxis], -top, top)


def decode_scaled(stored: Mapping[str, Array]) -> npt.NDArray[np.float32]:
    """Return weight (N, K) · weight_scale, which is (N,), (N, 1), (1,) or (), as float32 (N, K)."""
    codes = stored["weight"]
    scale = stored["weight_scale"].astype(np.float32).reshape(-1, 1)
    made: npt.NDArray[np.float32] = codes.astype(np.float32) * scale
    return made
