"""What an op of the domain `ttc` looks like from outside: names, dtypes and shapes of its inputs and outputs.

Shapes are written in dimension letters: B batch, L block length, T = B·L tokens, H heads, P head dim, G
groups, N state, W conv width, F conv channels, M inner channels of Mamba (H·P), R rows of a pool of states, Q
query channels, A query heads, J KV heads, Y head dim and C capacity of attention, U pages of a pool, Z tokens
of a page, O pages of a row, X parts of a context or of the vocabulary, D hidden size, I width of a routed
expert, S of a shared one or an MLP, E experts, K experts per token, V vocabulary. What follows from other
dimensions and attributes is written so: "T*K", "E+1", "W-1" (`ttc.base.dims`).

A dtype is a numpy name, or a word for one of several; a word stands for the same in all of a call:

    compute       the tower's compute dtype: float32, float16 or bfloat16
    stored8       weights as they are stored in eight bits: int8 or float8_e4m3fn
    stored4       weights as they are stored in four bits: float4_e2m1fn or int4
    group_scale   scale of a group of stored4 numbers: float8_e4m3fn of float4_e2m1fn, the compute dtype of
                  int4

Shapes count numbers, also where two lie in a byte (`ttc.base.dtypes`). In torch, which has no such tensors,
an input of `stored4` is uint8 and its last axis half as long.
"""

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from importlib import import_module
from typing import Any

from ttc.base.dims import evaluate, letters
from ttc.base.names import COMPUTE_DTYPES
from ttc.errors import InputError

__all__ = [
    "CHOICES",
    "DOMAIN",
    "DOMAIN_VERSION",
    "PLUGIN_ATTRIBUTES",
    "OpSpec",
    "TensorSpec",
    "with_group_scale",
]

DOMAIN = "ttc"
DOMAIN_VERSION = 1
# What every call of a `ttc` op carries in a graph: TensorRT then prefers the plugin of that name, ahead of
# time (`ttc.plugins.tensorrt_qdp`), and everything else ignores the two and inlines the op's body.
PLUGIN_ATTRIBUTES: Mapping[str, str | int] = {"plugin_namespace": DOMAIN, "aot": 1}
# Word → the dtypes it may stand for; what "group_scale" stands for follows from the others.
CHOICES: Mapping[str, tuple[str, ...]] = {
    "compute": COMPUTE_DTYPES,
    "stored8": ("int8", "float8_e4m3fn"),
    "stored4": ("float4_e2m1fn", "int4"),
}


def with_group_scale(words: Mapping[str, str]) -> dict[str, str]:
    """Return what words stand for, the one that follows from others among them."""
    stored = words.get("stored4")
    if stored is None:
        return dict(words)
    return {**words, "group_scale": "float8_e4m3fn" if stored == "float4_e2m1fn" else words["compute"]}


@dataclass(frozen=True, slots=True)
class TensorSpec:
    """One input or output: its name, dtype (a numpy name or a word, see above) and dimensions in letters."""

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

    def dtype_in(self, words: Mapping[str, str]) -> str:
        """Return the numpy name of its dtype in a call (`OpSpec.words`)."""
        return words.get(self.dtype, self.dtype)


@dataclass(frozen=True, slots=True)
class OpSpec:
    """The signature of one op.

    Attributes:
        package: the folder that holds the op, such as "ttc.plugins.moe_experts"; see `load`.
        name: op type in the domain `ttc`; differs from every ONNX and TensorRT op name.
        inputs: tensors in order.
        outputs: tensors in order.
        attributes: attribute name → type name ("int" or "float"), in order.
        parts: the ops of one launch that a composite op consists of, in order; empty for a primitive op,
            which is one kernel launch.
        doc: one sentence.
        fused: of a composite op: it has a kernel of its own, which does what its parts do in one launch.
        glue: it computes little, between products: a kernel saves launches where nobody fuses. Engines get
            its body, which their compiler merges with the products around it.
        in_place: its outputs are inputs in which a part is new, and its kernel writes that part only. Engines
            have no such op.
    """

    package: str
    name: str
    inputs: tuple[TensorSpec, ...]
    outputs: tuple[TensorSpec, ...]
    attributes: Mapping[str, str]
    parts: tuple[str, ...]
    doc: str
    glue: bool = False
    fused: bool = False
    in_place: bool = False

    @classmethod
    def make(
        cls,
        package: str,
        name: str,
        doc: str,
        *,
        inputs: Sequence[str],
        outputs: Sequence[str],
        attributes: Mapping[str, str] | None = None,
        parts: Sequence[str] = (),
        glue: bool = False,
        fused: bool = False,
        in_place: bool = False,
    ) -> "OpSpec":
        """Return the signature whose tensors are written as text (see `TensorSpec.parse`).

        Args:
            package: `__name__` of the folder that holds the op.
            name: op type.
            doc: one sentence.
            inputs: texts such as "x: compute (T, D)".
            outputs: texts of the same kind.
            attributes: name → "int" or "float".
            parts: names of ops of one launch.
            glue: see the class.
            fused: see the class.
            in_place: see the class.
        """
        return cls(
            package,
            name,
            tuple(map(TensorSpec.parse, inputs)),
            tuple(map(TensorSpec.parse, outputs)),
            dict(attributes or {}),
            tuple(parts),
            doc,
            glue,
            fused,
            in_place,
        )

    @property
    def launches(self) -> tuple[str, ...]:
        """The ops whose kernels compute it, in order: itself, or its parts."""
        return self.parts if self.parts and not self.fused else (self.name,)

    @property
    def is_quantised(self) -> bool:
        """Whether it takes weights as they are stored in eight or four bits."""
        return any(spec.dtype in ("stored8", "stored4") for spec in self.inputs)

    def load(self, file: str) -> Any:
        """Return what a file of the op's folder says about it: the object that is named after the op.

        For `MoeUp` and "naive" that is `moe_up` in `plugins/moe_experts/naive.py`. The files are `naive` (a
        function of torch tensors), `function` (dimensions, attributes and words → ONNX text), `kernel` (a
        description for `ttc.plugins.launch`) and `cost` (dimensions and attributes → FLOPs). They are
        imported here, since some need torch or triton.
        """
        return getattr(import_module(f"{self.package}.{file}"), _snake_case(self.name))

    def words(self, dtypes: Sequence[str]) -> dict[str, str]:
        """Return what every word of the signature stands for in a call: the dtype of its first input.

        "compute" is always among them, as "float32" where the signature does not have it.

        Args:
            dtypes: name of each input's dtype.

        Raises:
            InputError: a word cannot stand for that.
        """
        words: dict[str, str] = {}
        for spec, dtype in zip(self.inputs, dtypes, strict=True):
            allowed = CHOICES.get(spec.dtype)
            if allowed is None or spec.dtype in words:
                continue
            if dtype not in allowed:
                raise InputError(f"{self.name}: {spec.name} is {dtype}, expected one of {', '.join(allowed)}")
            words[spec.dtype] = dtype
        return with_group_scale({"compute": "float32"} | words)

    def dims(self, input_shapes: Sequence[Sequence[Any]], attributes: Mapping[str, Any]) -> dict[str, Any]:
        """Return the size of every dimension of the inputs, by its text, and every attribute by its name.

        A letter that stands only in a sum with a number ("W-1") is solved for where that sum is an int.

        Args:
            input_shapes: one shape per input; sizes are ints or symbolic.
            attributes: the op's attributes.

        Raises:
            InputError: a shape does not fit the signature or another shape; symbolic sizes are not compared.
        """
        dims: dict[str, Any] = dict(attributes)
        for spec, shape in zip(self.inputs, input_shapes, strict=True):
            if len(shape) != len(spec.shape):
                raise InputError(
                    f"{self.name}: {spec.name} has {len(shape)} dimensions, expected {_written(spec)}"
                )
            for dim, size in zip(spec.shape, shape, strict=True):
                self._check(spec, shape, dim, size, dims.get(dim, size))
                dims[dim] = size  # the last one counts: which tensor gives a size shows in a traced graph
        for dim, size in [*dims.items()]:
            if "*" not in dim and isinstance(size, int):
                for letter in letters(dim) - dims.keys():
                    dims[letter] = size - evaluate(dim, {letter: 0})
        known = {name: size for name, size in dims.items() if name.isalpha() and isinstance(size, int)}
        for spec, shape in zip(self.inputs, input_shapes, strict=True):
            for dim, size in zip(spec.shape, shape, strict=True):
                if letters(dim) <= known.keys():
                    self._check(spec, shape, dim, size, evaluate(dim, known))
        return dims

    def output_shapes(
        self, input_shapes: Sequence[Sequence[Any]], attributes: Mapping[str, Any]
    ) -> list[list[Any]]:
        """Return the shapes of the outputs for the given input shapes; sizes may be symbolic.

        Raises:
            InputError: as `dims`.
        """
        dims = self.dims(input_shapes, attributes)
        return [[evaluate(dim, dims) for dim in spec.shape] for spec in self.outputs]

    def _check(self, spec: TensorSpec, shape: Sequence[Any], dim: str, size: Any, expected: Any) -> None:
        if isinstance(size, int) and isinstance(expected, int) and size != expected:
            raise InputError(
                f"{self.name}: {spec.name} has shape {tuple(shape)}, expected {_written(spec)} with "
                f"{dim} = {expected}, which another argument or an attribute says"
            )


def _snake_case(name: str) -> str:
    return re.sub(r"(?<=[a-z])(?=[A-Z])", "_", name).lower()


def _written(spec: TensorSpec) -> str:
    return f"({', '.join(spec.shape)})"
