"""What an op of the domain `ttc` looks like from outside: names, dtypes and shapes of its inputs and outputs.

Shapes are written in dimension letters: B batch, L block length, T = B·L tokens, H heads, P head dim, G
groups, N state, W conv width, F conv channels, D hidden size, I expert width, E experts, K experts per token,
R = T·K, V vocabulary. An output dimension is a product of input dimensions and attributes ("T*K", "H*P"), or
such a product plus a number ("E+1"). The dtype "compute" is the tower's compute dtype (float32, float16 or
bfloat16), the same for all such inputs of a call.
"""

import operator
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import partial, reduce
from typing import Any

__all__ = ["DOMAIN", "DOMAIN_VERSION", "OpSpec", "TensorSpec", "evaluate"]

DOMAIN = "ttc"
DOMAIN_VERSION = 1


@dataclass(frozen=True, slots=True)
class TensorSpec:
    """One input or output: its name, dtype ("compute" or a numpy dtype name) and dimensions in letters."""

    name: str
    dtype: str
    shape: tuple[str, ...]

    @classmethod
    def parse(cls, text: str) -> "TensorSpec":
        """Read "name: dtype (B, L, V)"."""
        name, rest = text.split(":")
        dtype, shape = rest.strip().split(" ", 1)
        return cls(
            name.strip(), dtype, tuple(dim.strip() for dim in shape.strip("() ").split(",") if dim.strip())
        )


@dataclass(frozen=True, slots=True)
class OpSpec:
    """The signature of one op.

    Attributes:
        name: op type in the domain `ttc`; differs from every ONNX and TensorRT op name.
        inputs, outputs: tensors in order.
        attributes: attribute name → type name ("int" or "float"), in order.
        launches: the leaf ops it consists of, one kernel launch each; empty for a leaf.
        doc: one sentence.
    """

    name: str
    inputs: tuple[TensorSpec, ...]
    outputs: tuple[TensorSpec, ...]
    attributes: Mapping[str, str]
    launches: tuple[str, ...]
    doc: str

    @classmethod
    def make(
        cls,
        name: str,
        doc: str,
        *,
        inputs: Sequence[str],
        outputs: Sequence[str],
        attributes: Mapping[str, str] | None = None,
        launches: Sequence[str] = (),
    ) -> "OpSpec":
        """Build a signature from its text form (see `TensorSpec.parse`)."""
        return cls(
            name,
            tuple(map(TensorSpec.parse, inputs)),
            tuple(map(TensorSpec.parse, outputs)),
            dict(attributes or {}),
            tuple(launches),
            doc,
        )

    def output_shapes(
        self, input_shapes: Sequence[Sequence[Any]], attributes: Mapping[str, Any]
    ) -> list[list[Any]]:
        """Shapes of the outputs for the given input shapes; dimensions may be symbolic integers."""
        dims: dict[str, Any] = dict(attributes)
        for spec, shape in zip(self.inputs, input_shapes, strict=True):
            dims.update(zip(spec.shape, shape, strict=True))
        return [[evaluate(dim, dims) for dim in spec.shape] for spec in self.outputs]


def evaluate(expression: str, dims: Mapping[str, Any]) -> Any:
    """Value of "A*B+1" over the given dimensions, ints or symbolic."""
    terms = [
        reduce(partial(_symbol_first, operator.mul), map(partial(_factor, dims), term.split("*")))
        for term in expression.split("+")
    ]
    return reduce(partial(_symbol_first, operator.add), terms)


def _factor(dims: Mapping[str, Any], text: str) -> Any:
    return int(text) if text.isdigit() else dims[text]


def _symbol_first(operation: Callable[[Any, Any], Any], a: Any, b: Any) -> Any:
    """A commutative operation. TensorRT's symbolic dimensions take an int on their right only."""
    return operation(b, a) if isinstance(a, int) else operation(a, b)
