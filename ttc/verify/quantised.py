"""The quantised matrices of a checkpoint: each by itself, against the others of its layer, and against the
checkpoint that they were made from.
"""

import os
import statistics
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

import numpy as np
import numpy.typing as npt

from ttc.errors import CheckpointError, NumericsError
from ttc.exporter.onnx.checkpoint import Checkpoint
from ttc.formats.manifest import WeightSpec
from ttc.formats.quantised.codecs import decode
from ttc.formats.quantised.layouts import LAYOUTS, piece_shapes
from ttc.formats.quantised.measures import relative_error
from ttc.verify.matrices import Matrix, examine
from ttc.verify.report import WeightsCheck
from ttc.verify.tolerances import QUANTISED_ERRORS

__all__ = ["QuantisedCheck", "check_checkpoint", "check_quantised"]

Array = npt.NDArray[Any]
Say = Callable[[str], None]

# How many times the median largest weight of its layer's experts an expert's may be: more is told, much more
# is a fault.
_TOLD, _FAULT = 8.0, 64.0
_SHOWN = 20


@dataclass(slots=True)
class QuantisedCheck:
    """What was found of all quantised matrices.

    Attributes:
        matrices, bytes: how many there are, and what they are stored in.
        faults, notes: one sentence each.
        errors: format → the relative errors of its matrices, where there was something to compare with.
    """

    matrices: int = 0
    bytes: int = 0
    faults: list[str] = field(default_factory=list)
    notes: list[str] = field(default_factory=list)
    errors: dict[str, list[float]] = field(default_factory=dict)


def check_checkpoint(
    folder: str | os.PathLike[str], original: str | os.PathLike[str] | None, say: Say
) -> WeightsCheck:
    """Read all weights of a checkpoint, as `ttc verify CHECKPOINT --weights` does.

    Args:
        folder: the checkpoint, plain or quantised.
        original: the plain checkpoint that it was made from; None: it is not at hand.
        say: called with a line of text before each piece of work.
    """
    with Checkpoint.open(folder) as source:
        found = check_quantised(source, original, say)
        for spec in source.weights.values():
            if spec.layout:
                continue
            for tensor in spec.tensors:
                array = source.read(tensor)
                found.bytes += array.nbytes
                if not np.isfinite(array).all():
                    found.faults.append(f"{tensor} holds NaN or infinity")
        for word, errors in found.errors.items():
            mean, worst = statistics.fmean(errors), max(errors)
            found.notes.append(f"{word}: relative error {mean:.4f} on average, {worst:.4f} at most")
        more = len(found.faults) - _SHOWN
        faults = found.faults[:_SHOWN] + ([f"and {more} more"] if more > 0 else [])
        return WeightsCheck(
            len(source.tensors), found.bytes, tuple(faults), (*source.notes, *found.notes), {}
        )


def check_quantised(source: Checkpoint, original: str | os.PathLike[str] | None, say: Say) -> QuantisedCheck:
    """Examine every quantised matrix of an open checkpoint; arguments as above.

    Raises:
        CheckpointError: `original` is quantised itself, or has other weights.
    """
    found = QuantisedCheck()
    plain = None if original is None else Checkpoint.open(original)
    try:
        for spec in source.matrices.values():
            if spec.layout:
                say(f"examining {spec.name}")
                matrices = list(_matrices(source, spec, plain, found))
                found.faults += [fault for each in matrices for fault in (*each.faults, *each.unusual)]
                _compare_experts(matrices, found)
    finally:
        if plain is not None:
            plain.close()
    if found.matrices and plain is None:
        found.notes.append(
            "quantised weights were not compared with those that they were made from, which alone shows "
            "scales in a wrong order: ttc verify CHECKPOINT --weights --checkpoint PLAIN does"
        )
    return found


def _matrices(
    source: Checkpoint, spec: WeightSpec, plain: Checkpoint | None, found: QuantisedCheck
) -> Iterator[Matrix]:
    layout = LAYOUTS[spec.layout]
    due = piece_shapes(layout.format, spec.part_shape)
    originals = None if plain is None else _originals(plain, spec)
    for i, tensors in enumerate(spec.parts):
        arrays = [source.read(tensor) for tensor in tensors]
        found.matrices += 1
        found.bytes += sum(array.nbytes for array in arrays)
        stored = {
            piece.suffix: piece.convert(array, due[piece.suffix])
            for piece, array in zip(layout.pieces, arrays, strict=True)
        }
        module = tensors[0].removesuffix(f".{layout.pieces[0].stored}")
        matrix = examine(module, layout, stored)
        if originals is not None:
            faults = list(_error_fault(module, layout.format.word, stored, originals(i), found.errors))
            found.faults += faults
            if not faults:  # what it was made from says more than how such numbers usually look
                matrix = replace(matrix, unusual=(), is_original=True)
        yield matrix


def _originals(plain: Checkpoint, spec: WeightSpec) -> Callable[[int], Array]:
    """Return part number → the matrix that it was made from."""
    there = plain.weights.get(spec.name)
    if there is None or there.layout:
        what = "is quantised there, too" if there is not None else "is not there"
        raise CheckpointError(
            f"{plain.folder}: {spec.name} {what}; the plain checkpoint that was quantised is due"
        )
    whole = plain.read(there.tensors[0]) if not there.stacked else None

    def part(i: int) -> Array:
        if whole is not None:
            return whole[i] if whole.ndim == 3 else whole
        return plain.read(there.tensors[i])

    return part


def _error_fault(
    module: str, word: str, stored: Mapping[str, Array], matrix: Array, errors: dict[str, list[float]]
) -> Iterator[str]:
    try:
        decoded = decode(word, stored)
    except NumericsError:
        return  # told already
    if decoded.shape != matrix.shape:
        yield f"{module} is {list(decoded.shape)}, what it was made from {list(matrix.shape)}"
        return
    error, limit = relative_error(decoded, matrix), QUANTISED_ERRORS[word]
    errors.setdefault(word, []).append(error)
    if word == "int8":
        limit = max(limit, _rounding_error(stored, matrix))
    if error > limit:
        yield (
            f"{module}: its relative error is {error:.3g}, at most {limit:g} is due of {word}; its scales "
            "may lie in a wrong order"
        )


def _rounding_error(stored: Mapping[str, Array], matrix: Array) -> float:
    """Return the most that the relative error of int8 codes can be: half a step everywhere. One large weight
    makes the steps of its whole row large.
    """
    scales, norm = stored["weight_scale"].astype(np.float64), float(np.linalg.norm(matrix.astype(np.float64)))
    half_steps = np.sqrt(matrix.shape[1] * np.square(scales / 2).sum())
    return float(half_steps) / norm if norm else 0.0


def _compare_experts(matrices: Sequence[Matrix], found: QuantisedCheck) -> None:
    """Hold the largest weight of each expert against the layer's median."""
    if len(matrices) < 3:
        return
    median = statistics.median(matrix.largest for matrix in matrices)
    scale_2 = statistics.median(matrix.scale_2 for matrix in matrices)
    for matrix in matrices:
        if median <= 0 or matrix.largest == median:
            continue
        ratio = matrix.largest / median
        if 1 / _TOLD <= ratio <= _TOLD:
            continue
        text = (
            f"{matrix.module}: its largest weight is {matrix.largest:.2g}, the other experts of the layer "
            f"have {median:.2g} (ratio {ratio:.2g}){_reason(matrix, ratio, scale_2)}"
        )
        harmless = 1 / _FAULT <= ratio <= _FAULT or matrix.is_original or ratio == 0
        (found.notes if harmless else found.faults).append(text)


def _reason(matrix: Matrix, ratio: float, scale_2: float) -> str:
    if matrix.only_scale is not None and matrix.tops_reached:
        return (
            f"; all its block scales are {matrix.only_scale} under codes that reach the top everywhere: "
            "they are probably missing"
        )
    if scale_2 > 0 and 0.5 < ratio / scale_2 < 2:
        return "; the global scale is probably applied twice"
    return ""
