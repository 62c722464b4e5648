"""One kernel launch of a primitive op, described without torch, triton or tensorrt.

`KernelSpec` says once per primitive op which kernel runs it, which dimensions may change from call to call,
which block sizes there are to choose from, and how large the grid is. `KernelSpec.bind` fixes the static
sizes and gives a `Launch`, from which everybody works: `ttc.plugins.triton` calls it on torch tensors,
`ttc.plugins.ptx` compiles it ahead of time, `ttc.plugins.tensorrt_qdp` wraps it as a TensorRT plugin.

A kernel takes (pointers of the inputs …, int32 arguments …, pointers of the outputs …), contiguous tensors in
the order of the op's signature, then its constants: TensorRT knows no other order. A launch writes every
element of its outputs, reads none of them before, and needs no workspace. Only in torch an output may lie
over an input of which it changes a part (`KernelSpec.over`, `OpSpec.in_place`).

In torch some inputs are columns of a wider matrix (a Mamba layer's `xbc` and `dt` lie in what its in_proj
gave). Kernels that name them in `strided` read them there, without a copy: the elements from one token to the
next are a constant of the kernel. And stacks of weights that a kernel names in `tiled` may lie in square
tiles (`ttc.plugins.weight_tiles`), whose side is a constant of the kernel too.
"""

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any

from ttc.base.dims import evaluate
from ttc.errors import InputError
from ttc.plugins.ops import CHOICES, OpSpec, with_group_scale

__all__ = [
    "ALIGNMENT",
    "Dim",
    "Grid",
    "KernelSpec",
    "Launch",
    "Minimum",
    "Problem",
    "Tile",
    "cdiv",
    "launches_of",
    "power_of_two",
    "stored_dtype",
]

# Bytes; compiled kernels take it for granted of every pointer.
ALIGNMENT = 16
# An int, or TensorRT's symbolic expression of one, which knows + - * // with itself or an int on its right.
Dim = Any
# Smallest of two dimensions: `min` for ints, `tensorrt.plugin.min` for symbolic ones.
Minimum = Callable[[Dim, Dim], Dim]
_STORED = ("stored8", "stored4")
# (dimensions, constants, minimum) → programs along x, y, z.
Grid = Callable[[Mapping[str, Dim], Mapping[str, Any], Minimum], tuple[Dim, ...]]


def stored_dtype(words: Mapping[str, str]) -> str | None:
    """Return what "stored8" or "stored4" stands for among these words; None where neither is there."""
    return next((words[word] for word in _STORED if word in words), None)


def _numbers(target: str) -> tuple[int, int]:
    major, minor = map(int, target.split("."))
    return major, minor


def cdiv(a: Dim, b: int) -> Dim:
    """Return ⌈a / b⌉ of a dimension that may be symbolic."""
    return (a + (b - 1)) // b


def power_of_two(n: int, at_least: int = 1) -> int:
    """Return the smallest power of two that is at least n and at_least."""
    return max(at_least, 1 << (max(n, 1) - 1).bit_length())


@dataclass(frozen=True, slots=True)
class Tile:
    """One choice of block sizes; a tactic, in TensorRT's words.

    Attributes:
        name: for reports.
        blocks: constants of the kernel.
        num_warps: warps of 32 threads a program.
        num_stages: loads in flight in the kernel's inner loop.
        wide: it takes more shared memory than a launch has unasked (`ttc.plugins.ptx`), so that only who asks
            the driver for it can launch it: Triton, and so torch. No tactic of a plugin.
    """

    name: str
    blocks: Mapping[str, int]
    num_warps: int
    num_stages: int = 1
    wide: bool = False


@dataclass(frozen=True, slots=True)
class Problem:
    """What is fixed when a kernel is compiled.

    Attributes:
        dims: sizes by letter of the op's signature; those that change from call to call may be missing,
            others that the signature knows besides (`OpSpec.dims`) do no harm.
        attributes: the op's attributes.
        dtype: what "compute" stands for: "float32", "float16" or "bfloat16".
        interpreted: the kernel runs in Triton's interpreter, which multiplies no bfloat16 matrices.
        stored: what "stored8" or "stored4" stands for, in an op that has one of them.
        target: compute capability that the kernel is compiled for, such as "9.0"; None: one that all have.
        token_strides: strided input → elements from one token to the next; those that are dense are missing.
        weight_tiles: tiled input → side of its tiles; those that lie in rows are missing.
        over: outputs that lie over an input (`KernelSpec.over`).
    """

    dims: Mapping[str, int]
    attributes: Mapping[str, Any]
    dtype: str
    interpreted: bool = False
    stored: str | None = None
    target: str | None = None
    token_strides: Mapping[str, int] = field(default_factory=dict)
    weight_tiles: Mapping[str, int] = field(default_factory=dict)
    over: frozenset[str] = frozenset()

    @property
    def words(self) -> dict[str, str]:
        """What the words of a signature stand for (`OpSpec.words`)."""
        stored = {word: self.stored for word in _STORED if self.stored in CHOICES[word]}
        return with_group_scale({"compute": self.dtype} | {k: v for k, v in stored.items() if v is not None})

    def reaches(self, target: str) -> bool:
        """Return whether what it is compiled for has at least this compute capability."""
        return self.target is not None and _numbers(self.target) >= _numbers(target)


@dataclass(frozen=True, slots=True)
class Launch:
    """A kernel with all its constants: what is left open are the tensors and the changing dimensions.

    Attributes:
        op: name of the primitive op.
        kernel: the `triton.jit` function.
        inputs: dtypes of the inputs, numpy names and "bfloat16".
        outputs: dtypes of the outputs.
        integers: the dimensions passed as int32 arguments, in order.
        constants: constexpr arguments by name; ints, bools, strings and floats.
        grid: see `Grid`; call `programs` for a concrete one.
        tile: the block sizes.
    """

    op: str
    kernel: Any
    inputs: tuple[str, ...]
    outputs: tuple[str, ...]
    integers: tuple[str, ...]
    constants: Mapping[str, Any]
    grid: Grid
    tile: Tile

    def programs(self, dims: Mapping[str, Dim], minimum: Minimum = min) -> tuple[Dim, Dim, Dim]:
        """Return the grid (x, y, z) for these dimensions."""
        x, *rest = self.grid(dims, self.constants, minimum)
        y, z = [*rest, 1, 1][:2]
        return x, y, z

    def integer_values(self, dims: Mapping[str, Dim]) -> tuple[Dim, ...]:
        """Return the int32 arguments for these dimensions."""
        return tuple(evaluate(dim, dims) for dim in self.integers)


@dataclass(frozen=True, slots=True)
class KernelSpec:
    """The kernel of one primitive op.

    Attributes:
        op: its signature.
        kernel: the `triton.jit` function.
        changing: letters of the dimensions that may differ from call to call; all others are constants of
            the compiled kernel, since they come from the model's configuration.
        integers: dimensions made of those ("L", "T*K") that the kernel takes as arguments, in order.
        tiles: the choices of block sizes, wide ones last; tactic n is tiles[n − 1].
        select_tile: all dimensions → index into tiles, where nobody measures; never of a wide one.
        constants: (problem, tile) → constexpr arguments by name.
        grid: see `Grid`.
        strided: inputs (B, L, X) whose tokens may lie further apart than X elements; `constants` then reads
            `Problem.token_strides`.
        tiled: stacks (E, OUT, IN) that may lie in tiles; `constants` then reads `Problem.weight_tiles`.
        over: output → the input that it may lie over. It then has that input's shape, and the kernel writes
            only what changes in it; `constants` reads `Problem.over`.
        work_in_values: how much there is to do depends on what the inputs hold (who was routed where, what
            is masked), so that a time measured on arbitrary inputs says nothing of a choice of block sizes.
        select_wide: the same for who can launch wide tiles; None where there are none.
        pays: of a fused op: all dimensions → whether its one launch is better than one for each part.
    """

    op: OpSpec
    kernel: Any
    changing: tuple[str, ...]
    integers: tuple[str, ...]
    tiles: tuple[Tile, ...]
    select_tile: Callable[[Mapping[str, int]], int]
    constants: Callable[[Problem, Tile], Mapping[str, Any]]
    grid: Grid
    strided: tuple[str, ...] = ()
    tiled: tuple[str, ...] = ()
    over: Mapping[str, str] = field(default_factory=dict)
    work_in_values: bool = False
    select_wide: Callable[[Mapping[str, int]], int] | None = None
    pays: Callable[[Mapping[str, int]], bool] = lambda dims: True

    def bind(self, problem: Problem, tile: int = 0) -> Launch:
        """Return the launch for one problem and one choice of block sizes.

        Args:
            problem: what is fixed.
            tile: index into `tiles`.

        Raises:
            InputError: there is no such index.
        """
        if not 0 <= tile < len(self.tiles):
            raise InputError(f"{self.op.name}: tile is {tile}, expected 0 to {len(self.tiles) - 1}")
        selected = self.tiles[tile]
        return Launch(
            op=self.op.name,
            kernel=self.kernel,
            inputs=tuple(spec.dtype_in(problem.words) for spec in self.op.inputs),
            outputs=tuple(spec.dtype_in(problem.words) for spec in self.op.outputs),
            integers=self.integers,
            constants={**self.constants(problem, selected)},
            grid=self.grid,
            tile=selected,
        )


def launches_of(op: OpSpec, dims: Mapping[str, int], kernels: Mapping[str, KernelSpec]) -> tuple[str, ...]:
    """Return the ops whose kernels compute it at these sizes, in order: `OpSpec.launches`, or its parts where
    they are better than the one kernel of a fused op.

    Args:
        op: any op.
        dims: all its dimensions (`OpSpec.dims`).
        kernels: of the launched ops, by name.
    """
    return op.parts if op.fused and not kernels[op.name].pays(dims) else op.launches
