"""MXFP4: e2m1 codes and a power of two for each block of 32 inputs, w = code · 2^(s − 127). Only read."""

from collections.abc import Mapping
from typing import Any

import ml_dtypes
import numpy as np
import numpy.typing as npt

from ttc.formats.quantised.nibbles import E2M1_VALUES, unpack

__all__ = ["BLOCK", "decode"]

Array = npt.NDArray[Any]

BLOCK = 32


def decode(stored: Mapping[str, Array]) -> npt.NDArray[np.float32]:
    """Return float32 (N, K) of weight uint8 (N, K/2) and weight_scale uint8 or e8m0 (N, K/32)."""
    exponents = stored["weight_scale"].view(ml_dtypes.float8_e8m0fnu)
    scale = exponents.astype(np.float32)
    outputs, blocks = scale.shape
    values = E2M1_VALUES[unpack(stored["weight"])].reshape(outputs, blocks, BLOCK)
    values *= scale[..., np.newaxis]
    return values.reshape(outputs, blocks * BLOCK)
