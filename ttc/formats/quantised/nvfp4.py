"""NVFP4: e2m1 codes, an e4m3 scale for each block of 16 inputs, and a float32 scale of the whole matrix.

    w = code · (block scale · matrix scale), in float32

The layout is ModelOpt's, and so are, in the plain form, the bytes. Block scales are kept within 2^-9 … 448,
the positive e4m3 numbers. Zero is code 0 whatever its sign; a negative weight that rounds to zero is code 8.

Four over six: a block's largest weight lies at code 6 or, where that leaves the smaller squared error, at
code 4; that has room for the scale of the largest block to grow by half, so the matrix scale is
amax / (6 · 256) in place of amax / (6 · 448). Decoding is the same.
"""

from collections.abc import Mapping
from typing import Any

import ml_dtypes
import numpy as np
import numpy.typing as npt

from ttc.formats.quantised.nibbles import E2M1_VALUES, pack, unpack

__all__ = ["BLOCK", "decode", "encode"]

Array = npt.NDArray[Any]
Floats = npt.NDArray[np.float32]

BLOCK = 16
_E2M1_TOP, _E4M3_TOP, _E4M3_LEAST = np.float32(6), np.float32(448), np.float32(2**-9)
_FOUR_OVER_SIX_TOP = np.float32(256)  # 256 · 6/4 = 384 is still an e4m3 number


def encode(matrix: Array, four_over_six: bool = True) -> dict[str, Array]:
    """Return weight uint8 (N, K/2), weight_scale e4m3 (N, K/16), weight_scale_2 float32 () of (N, K).

    Args:
        matrix: (N, K), K divisible by 16.
        four_over_six: False gives ModelOpt's plain bytes.
    """
    outputs, inputs = matrix.shape
    blocks = matrix.astype(np.float32).reshape(outputs, inputs // BLOCK, BLOCK)
    largest = np.abs(blocks).max(axis=2)
    top = _FOUR_OVER_SIX_TOP if four_over_six else _E4M3_TOP
    whole = np.float32(largest.max() / (_E2M1_TOP * top)) or np.float32(1)
    scale = _block_scales(largest, _E2M1_TOP, whole)
    codes = _codes(blocks, scale, whole)
    if four_over_six:
        other = _block_scales(largest, np.float32(4), whole)
        other_codes = _codes(blocks, other, whole)
        better = _error(blocks, other_codes, other, whole) < _error(blocks, codes, scale, whole)
        scale = np.where(better, other, scale)
        codes = np.where(better[..., np.newaxis], other_codes, codes)
    return {
        "weight": pack(codes.reshape(outputs, inputs)),
        "weight_scale": scale,
        "weight_scale_2": np.array(whole),
    }


def decode(stored: Mapping[str, Array]) -> Floats:
    """Return float32 (N, K); weight_scale_2 is () or (1,)."""
    scale = stored["weight_scale"].astype(np.float32)
    whole = stored["weight_scale_2"].astype(np.float32).reshape(())
    outputs, blocks = scale.shape
    values = E2M1_VALUES[unpack(stored["weight"])].reshape(outputs, blocks, BLOCK)
    values *= (scale * whole)[..., np.newaxis]
    return values.reshape(outputs, blocks * BLOCK)


def _block_scales(largest: Floats, code: np.float32, whole: np.float32) -> Array:
    """Return e4m3 scales that put each block's largest weight at `code`."""
    scale = largest / (code * whole)
    scale[largest == 0] = 1.0
    made: Array = np.clip(scale, _E4M3_LEAST, _E4M3_TOP).astype(ml_dtypes.float8_e4m3fn)
    return made


def _codes(blocks: Floats, scale: Array, whole: np.float32) -> Array:
    """Return the nearest codes, ties to even, uint8 and one a byte."""
    in_scale = blocks / (scale.astype(np.float32) * whole)[..., np.newaxis]
    codes = in_scale.astype(ml_dtypes.float4_e2m1fn).view(np.uint8)
    codes[blocks == 0] = 0  # a zero keeps no sign
    return codes


def _error(blocks: Floats, codes: Array, scale: Array, whole: np.float32) -> Floats:
    """Return each block's squared error."""
    decoded = E2M1_VALUES[codes] * (scale.astype(np.float32) * whole)[..., np.newaxis]
    made: Floats = np.square(decoded - blocks).sum(axis=2)
    return made
