"""What an op must at least read, write and compute: the numbers to hold a measured time against.

Bytes follow from an op's signature: every input and output of a launch once, whatever caches do, except that
of a stack of experts only the chosen ones are read, and of a pool a call's own rows and pages. FLOPs stand in
the op's folder, in `cost.py`: a multiplication with its addition is two; an exponential, a comparison or any
other scalar function is one. A composite op costs what its launches cost, so what passes between them through
memory is counted.
Standard operators that carry weight in a tower have a function each.

A measured time cannot be shorter than bytes / bandwidth or flops / peak rate, whichever is longer.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Self

from ttc.base.dims import evaluate
from ttc.base.dtypes import numpy_dtype
from ttc.base.quantised import WEIGHT_FORMATS
from ttc.plugins.ops import OpSpec, TensorSpec
from ttc.plugins.table import OPS_BY_NAME

__all__ = [
    "GROUPS",
    "Cost",
    "attention_cost",
    "elementwise_cost",
    "experts_read",
    "linear_cost",
    "norm_cost",
    "op_cost",
]

# How many four-bit weights share a scale, by the dtype of their codes.
GROUPS: Mapping[str, int] = {
    each.codes: each.group for each in WEIGHT_FORMATS.values() if each.family == "blocked"
}
# A pool's rows and pages → those of one call.
_OF_A_POOL = {"R": "B", "U": "B*O"}


@dataclass(frozen=True, slots=True)
class Cost:
    """Floating-point operations, and bytes moved between memory and processor."""

    flops: float
    bytes: float

    def __add__(self, other: Self) -> Self:
        return type(self)(self.flops + other.flops, self.bytes + other.bytes)

    def __mul__(self, count: float) -> Self:
        return type(self)(self.flops * count, self.bytes * count)

    def seconds_at_least(self, flops_per_second: float, bytes_per_second: float) -> float:
        """Return the shortest time that a machine with these two limits can take."""
        return max(self.flops / flops_per_second, self.bytes / bytes_per_second)


def op_cost(
    op: OpSpec,
    dims: Mapping[str, int],
    compute_bytes: int,
    experts: float | None = None,
    stored: str = "float4_e2m1fn",
) -> Cost:
    """Return the cost of one call of an op of the domain `ttc`.

    Args:
        op: from `ttc.plugins.table`.
        dims: sizes of the letters in its signature and attributes (`ttc.plugins.ops`). T follows from B and L
            where it is missing. G is needed for Mamba's ops, K for experts.
        compute_bytes: size of an element of the compute dtype.
        experts: how many experts the tokens chose together; None: the mean under uniform routing.
        stored: what "stored4" stands for, in an op that has such weights. How many groups they have follows
            from it where `dims` does not say.
    """
    known = dict(dims)
    for inner in ("D", "I"):
        if inner in known:
            known.setdefault(f"{inner}B", known[inner] // GROUPS[stored])
    if "T" not in known and {"B", "L"} <= known.keys():
        known["T"] = known["B"] * known["L"]
    if op.launches != (op.name,):
        total = Cost(0, 0)
        for name in op.launches:
            total += op_cost(OPS_BY_NAME[name], known, compute_bytes, experts, stored)
        return total
    if experts is None and "E" in known and "K" in known:
        experts = experts_read(known["E"], known["K"], known["T"])
    flops: float = op.load("cost")(known)
    tensors = [*op.inputs, *op.outputs]
    if op.in_place:  # the new part is written where it belongs, and that is all
        written = {spec.shape for spec in op.outputs}
        tensors = 2 * [spec for spec in op.inputs if spec.shape not in written]
    moved = sum(_bytes(spec, known, compute_bytes, experts, stored) for spec in tensors)
    return Cost(flops, moved)


def experts_read(experts: int, per_token: int, tokens: int) -> float:
    """Return how many experts at least one of the tokens chooses, on average: E·(1 − (1 − K/E)^T).

    That is if all choices are equally likely.
    """
    return experts * (1 - (1 - per_token / experts) ** tokens)


def linear_cost(rows: int, inputs: int, outputs: int, itemsize: int) -> Cost:
    """Return that of a matrix product (rows, inputs) · (inputs, outputs), all read and written once."""
    moved = rows * inputs + inputs * outputs + rows * outputs
    return Cost(2 * rows * inputs * outputs, moved * itemsize)


def attention_cost(B: int, L: int, C: int, heads: int, kv_heads: int, P: int, itemsize: int) -> Cost:
    """Return that of attention of L tokens over C cached ones and themselves, between the projections.

    Counted are both products and the softmax. Scores stay on the chip.
    """
    keys = C + L
    moved = B * (2 * L * heads * P + 2 * keys * kv_heads * P)
    return Cost(4 * B * heads * L * keys * P + 5 * B * heads * L * keys, moved * itemsize)


def norm_cost(rows: int, width: int, itemsize: int) -> Cost:
    """Return that of an RMSNorm: square, sum, scale, weight."""
    return Cost(4 * rows * width, (2 * rows * width + width) * itemsize)


def elementwise_cost(elements: int, operands: int, itemsize: int, flops: int = 1) -> Cost:
    """Return that of `operands` tensors in, one out, `flops` operations per element."""
    return Cost(flops * elements, (operands + 1) * elements * itemsize)


def _bytes(
    spec: TensorSpec, dims: Mapping[str, int], compute_bytes: int, experts: float | None, stored: str
) -> float:
    size = _itemsize(spec.dtype, compute_bytes, stored)
    for axis, dim in enumerate(spec.shape):
        dim = _OF_A_POOL.get(dim, dim)
        of_a_stack = axis == 0 and dim == "E" and len(spec.shape) > 1 and experts is not None
        size *= experts if of_a_stack and experts is not None else evaluate(dim, dims)
    return size


def _itemsize(dtype: str, compute_bytes: int, stored: str) -> float:
    """Return the bytes of a number; "stored8" is one byte whatever it stands for."""
    sizes = {
        "compute": compute_bytes,
        "stored8": 1,
        "stored4": 0.5,
        "group_scale": 1 if stored == "float4_e2m1fn" else compute_bytes,
    }
    return sizes[dtype] if dtype in sizes else numpy_dtype(dtype).itemsize
