"""Weights as TensorRT's engines take them: what a network would compute of a weight alone, in every call, is
computed once while weights are loaded.

A prepared weight is named as the weight with the steps behind it, in their order:
`lm_head.weight|transpose(1,0)`, `….mixer.A_log|float32|exp|neg`. The steps:

    transpose(…)   the axes in this order
    float32        converted; exact, since no compute dtype is wider
    exp, neg       of float32
"""

import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any, Self

import numpy as np
import numpy.typing as npt

from ttc.errors import BundleError
from ttc.formats.manifest import WeightSpec
from ttc.formats.strictjson import quoted

__all__ = ["EXP", "FLOAT32", "NEG", "PreparedWeight", "transpose_step"]

Array = npt.NDArray[Any]
FLOAT32, EXP, NEG = "float32", "exp", "neg"
_FUNCTIONS: Mapping[str, Callable[[Array], Array]] = {
    FLOAT32: lambda array: array.astype(np.float32),
    EXP: np.exp,
    NEG: np.negative,
}
_TRANSPOSE = re.compile(r"transpose\(([0-7](?:,[0-7])*)\)")


@dataclass(frozen=True, slots=True)
class PreparedWeight:
    """A weight and what is done to it before an engine takes it; without steps it is taken as it is."""

    weight: str
    steps: tuple[str, ...] = ()

    @classmethod
    def parse(cls, name: str) -> Self:
        """Return the weight that an engine's input of this name takes; raise `BundleError` for steps that
        are none.
        """
        weight, *steps = name.split("|")
        for step in steps:
            if step not in _FUNCTIONS and _TRANSPOSE.fullmatch(step) is None:
                raise BundleError(
                    f"an engine takes the weight {quoted(name)}, and {quoted(step)} is no step that ttc "
                    "knows; build again with this ttc"
                )
        return cls(weight, tuple(steps))

    @property
    def name(self) -> str:
        """The name of the engine's input."""
        return "|".join((self.weight, *self.steps))

    def spec(self, spec: WeightSpec) -> WeightSpec:
        """Return the weight as the engine takes it, given how graphs do.

        Raises:
            BundleError: a step does not go with its shape.
        """
        shape, dtype = spec.shape, spec.dtype
        for step in self.steps:
            if step in _FUNCTIONS:
                dtype = FLOAT32
                continue
            axes = _axes(step)
            if sorted(axes) != list(range(len(shape))):
                raise BundleError(
                    f"an engine takes {quoted(self.name)}, but {quoted(self.weight)} is {list(shape)}; "
                    "build again"
                )
            shape = tuple(shape[axis] for axis in axes)
        return replace(spec, name=self.name, shape=shape, dtype=dtype)

    def apply(self, array: Array) -> Array:
        """Return the prepared content, C-contiguous, of the weight's."""
        for step in self.steps:
            array = _FUNCTIONS[step](array) if step in _FUNCTIONS else array.transpose(_axes(step))
        return np.ascontiguousarray(array)


def transpose_step(axes: Sequence[int]) -> str:
    """Return the step that puts the axes in this order."""
    return f"transpose({','.join(map(str, axes))})"


def _axes(step: str) -> tuple[int, ...]:
    found = _TRANSPOSE.fullmatch(step)
    assert found is not None
    return tuple(map(int, found[1].split(",")))
