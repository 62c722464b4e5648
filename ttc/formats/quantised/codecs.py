"""The formats' functions by the formats' words; what cannot be stored in a format is refused here."""

from collections.abc import Callable, Mapping
from typing import Any, Final

import numpy as np
import numpy.typing as npt

from ttc.base.quantised import WEIGHT_FORMATS
from ttc.errors import InputError, NumericsError
from ttc.formats.quantised import fp8, int4, int8, mxfp4, nvfp4

__all__ = ["decode", "encode"]

Array = npt.NDArray[Any]

_ENCODE: Final[Mapping[str, Callable[[Array], dict[str, Array]]]] = {
    "int8": int8.encode,
    "fp8": fp8.encode,
    "int4": int4.encode,
}
_DECODE: Final[Mapping[str, Callable[[Mapping[str, Array]], npt.NDArray[np.float32]]]] = {
    "int8": int8.decode,
    "fp8": fp8.decode,
    "nvfp4": nvfp4.decode,
    "int4": int4.decode,
    "mxfp4": mxfp4.decode,
}
assert _DECODE.keys() == WEIGHT_FORMATS.keys()


def encode(word: str, matrix: Array, *, four_over_six: bool = True) -> dict[str, Array]:
    """Return what a matrix is stored as, by ModelOpt's suffixes.

    Args:
        word: a format of `ttc.base.quantised.WRITTEN_FORMATS`.
        matrix: (N, K), of a floating dtype.
        four_over_six: how NVFP4 chooses its block scales (`ttc.formats.quantised.nvfp4`).

    Raises:
        InputError: K cannot be divided into the format's groups.
        NumericsError: a weight is NaN or infinite.
    """
    group, inputs = WEIGHT_FORMATS[word].group, matrix.shape[1]
    if group and inputs % group:
        raise InputError(
            f"a matrix with {inputs} inputs cannot be stored as {word}, whose groups have {group}; "
            "int8 and fp8 take any number"
        )
    if not np.isfinite(matrix).all():
        raise NumericsError(f"a matrix that holds NaN or infinity cannot be stored as {word}")
    if word == "nvfp4":
        return nvfp4.encode(matrix, four_over_six)
    return _ENCODE[word](matrix)


def decode(word: str, stored: Mapping[str, Array]) -> npt.NDArray[np.float32]:
    """Return the matrix float32 (N, K) that is stored in the format `word`.

    Raises:
        NumericsError: a weight comes out as NaN or infinite.
    """
    with np.errstate(over="ignore", invalid="ignore"):
        matrix = _DECODE[word](stored)
    if not np.isfinite(matrix).all():
        row, column = map(int, np.argwhere(~np.isfinite(matrix))[0])
        raise NumericsError(
            f"stored as {word}, but the weight at row {row}, column {column} is NaN or infinite: "
            "its code or its scale is"
        )
    return matrix
