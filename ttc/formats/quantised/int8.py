"""int8: codes −127 … 127 and one float32 scale for each output."""

from collections.abc import Mapping
from typing import Any

import numpy as np
import numpy.typing as npt

from ttc.formats.quantised.scaled import decode_scaled, per_output

__all__ = ["decode", "encode"]

Array = npt.NDArray[Any]

_TOP = 127


def encode(matrix: Array) -> dict[str, Array]:
    """Return weight int8 (N, K) and weight_scale float32 (N,) of a matrix (N, K)."""
    scale, in_scale = per_output(matrix, _TOP)
    return {"weight": np.rint(in_scale).astype(np.int8), "weight_scale": scale}


def decode(stored: Mapping[str, Array]) -> npt.NDArray[np.float32]:
    """Return float32 (N, K); a scale for the whole matrix is taken too."""
    return decode_scaled(stored)
