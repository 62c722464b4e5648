"""fp8: e4m3 codes and one float32 scale for each output."""

from collections.abc import Mapping
from typing import Any

import ml_dtypes
import numpy as np
import numpy.typing as npt

from ttc.formats.quantised.scaled import decode_scaled, per_output

__all__ = ["decode", "encode"]

Array = npt.NDArray[Any]

_TOP = 448


def encode(matrix: Array) -> dict[str, Array]:
    """Return weight e4m3 (N, K) and weight_scale float32 (N,) of a matrix (N, K).

    The quotient is rounded once, from float32.
    """
    scale, in_scale = per_output(matrix, _TOP)
    return {"weight": in_scale.astype(ml_dtypes.float8_e4m3fn), "weight_scale": scale}


def decode(stored: Mapping[str, Array]) -> npt.NDArray[np.float32]:
    """Return float32 (N, K); a scale for the whole matrix, as ModelOpt writes by default, is taken too."""
    return decode_scaled(stored)
