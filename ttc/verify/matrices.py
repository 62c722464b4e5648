"""What can be wrong with one quantised matrix, by its own numbers.

    scales      finite, not negative; zero only over codes that are all zero
    codes       no NaN; the largest of a block or row lies at the top of their range, for that is what its
                scale is chosen for, except where all are zero, or an NVFP4 scale is at its least, 2^-9; and
                few others lie there, for else they were cut off

With the matrix that it was made from, also its relative error. Transposed block scales show in nothing else.
"""

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any, Final

import numpy as np
import numpy.typing as npt

from ttc.formats.quantised.layouts import Layout
from ttc.formats.quantised.measures import TOPS, code_values

__all__ = ["Matrix", "examine"]

Array = npt.NDArray[Any]
Floats = npt.NDArray[np.float32]

_LEAST_NVFP4_SCALE = 2.0**-9
# The least that the largest code under a scale comes to: NVFP4's four over six ends at 4; MXFP4's scales are
# powers of two; the others end at the top but for rounding.
_LEAST_TOP: Final[Mapping[str, float]] = {"int8": 126, "fp8": 416, "nvfp4": 4, "int4": 7, "mxfp4": 3}
# So many blocks may miss it, as those of other encoders do now and then.
_MAY_MISS = 0.01
# So many codes may lie at the top: correct NVFP4 has 5 to 12 %, and 40 % where scales are half too small.
_MAY_BE_AT_TOP = 0.3
_MAY_BE_AT_TOP_OF_ROW = 0.03


@dataclass(frozen=True, slots=True)
class Matrix:
    """What was found.

    Attributes:
        module: its name.
        faults: what no matrix may have, one sentence each.
        unusual: what matrices do not have unless they are odd themselves; a fault as long as nobody knows.
        is_original: whether it was found near what it was made from.
        largest: the largest magnitude that it decodes to.
        scale_2: its second scale, 1 where it has none.
        only_scale: the one value of all its scales; None where they differ.
        tops_reached: whether the largest code under every scale reaches the top.
    """

    module: str
    faults: tuple[str, ...]
    unusual: tuple[str, ...]
    largest: float
    scale_2: float
    only_scale: float | None
    tops_reached: bool
    is_original: bool = False


def examine(module: str, layout: Layout, stored: Mapping[str, Array]) -> Matrix:
    """Return what is to be said of a matrix.

    Args:
        module: its name.
        layout: how it is stored.
        stored: by suffix, in the form of `ttc.formats.quantised`.
    """
    word = layout.format.word
    names = {piece.suffix: f"{module}.{piece.stored}" for piece in layout.pieces}
    codes = np.abs(code_values(word, stored))
    scales = _scales(word, stored["weight_scale"], len(codes))  # (N, S), of K/S codes each
    tops = np.nan_to_num(codes).reshape(*scales.shape, -1).max(axis=2)
    whole = float(stored["weight_scale_2"]) if "weight_scale_2" in stored else 1.0

    faults = [*_bad_scales(names["weight_scale"], stored["weight_scale"], scales, tops)]
    if not np.isfinite(whole) or whole <= 0:
        faults.append(f"{names['weight_scale_2']} is {whole:g}, more than 0 is due")
    if np.isnan(codes).any():
        row, column = np.argwhere(np.isnan(codes))[0]
        faults.append(f"{names['weight']} holds NaN at row {row}, column {column}")
    unusual = tuple(_bad_codes(module, word, codes, scales, tops))
    fine = np.where(np.isfinite(scales), scales, 0)
    only = float(scales.flat[0]) if scales.size and (scales == scales.flat[0]).all() else None
    reached = bool((tops >= TOPS[word]).all())
    largest = float((tops * fine).max()) * whole
    return Matrix(module, tuple(faults), unusual, largest, whole, only, reached)


def _scales(word: str, stored: Array, rows: int) -> Floats:
    if word == "mxfp4" and stored.dtype == np.uint8:  # e8m0: 2^(s − 127), 255 is NaN
        made = np.ldexp(np.float32(1), stored.astype(np.int32) - 127).astype(np.float32)
        return np.where(stored == 255, np.float32(np.nan), made)
    return stored.astype(np.float32).reshape(rows, -1)


def _bad_scales(name: str, stored: Array, scales: Floats, tops: Floats) -> Iterator[str]:
    """Yield the first scale of each kind that is wrong, and how many more there are."""
    in_bytes = stored.ndim == 2 and stored.dtype.itemsize == 1
    kinds = (
        ("NaN", np.isnan(scales), ""),
        ("infinite", np.isinf(scales), ""),
        ("negative", np.signbit(scales) & np.isfinite(scales), ""),
        ("0", (scales == 0) & ~np.signbit(scales) & (tops > 0), ", over codes that are not 0"),
    )
    for what, wrong, over in kinds:
        if not wrong.any():
            continue
        row, block = (int(i) for i in np.argwhere(wrong)[0])
        where = f"row {row}, block {block}" if stored.ndim == 2 else f"row {row}"
        byte = f" (byte 0x{int(stored.view(np.uint8)[row, block]):02X})" if in_bytes else ""
        more = f", and {int(wrong.sum()) - 1} more" if wrong.sum() > 1 else ""
        yield f"{name} is {what} at {where}{byte}{over}{more}"


def _bad_codes(module: str, word: str, codes: Floats, scales: Floats, tops: Floats) -> Iterator[str]:
    counted = tops > 0
    if word == "nvfp4":
        counted &= scales > _LEAST_NVFP4_SCALE
    if not counted.any():
        return
    least, in_blocks = _LEAST_TOP[word], scales.shape[1] > 1
    if not in_blocks and (scales == scales.flat[0]).all():  # one scale for the whole matrix
        missing = float(np.max(tops) < least)
    else:
        missing = float((tops[counted] < least).mean())
    if missing > _MAY_MISS:
        yield (
            f"{module}: under {100 * missing:.0f} % of its scales no code reaches {least:g} of "
            f"{TOPS[word]:g}: the scales are too large for the codes"
        )
    share = float((codes >= TOPS[word]).mean())
    allowed = _MAY_BE_AT_TOP if in_blocks else max(_MAY_BE_AT_TOP_OF_ROW, 3 / codes.shape[1])
    if share > allowed:
        yield (
            f"{module}: {100 * share:.0f} % of its codes lie at the top of their range, at most "
            f"{100 * allowed:.0f} % are due: larger weights were cut off"
        )
