"""The least that the parts of a profile must read and compute."""

import math
import time
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from ttc.base.clock import passed
from ttc.base.dtypes import numpy_dtype
from ttc.model.config import LayerKind, ModelConfig
from ttc.model.signatures import op_dims
from ttc.plugins.costs import Cost, op_cost
from ttc.plugins.table import OPS_BY_NAME
from ttc.profiling.phases import Phase

__all__ = ["measure_limits", "node_cost", "ttc_op_cost"]

_PRODUCTS = ("MatMul", "Gemm", "FusedMatMul", "FusedGemm", "MatMulNBits")
_NO_WORK = ("Reshape", "Shape", "Squeeze", "Unsqueeze", "Identity", "Flatten")
_BY_ONNX_NAME = {"float": 4, "double": 8, "float16": 2, "bfloat16": 2, "int64": 8, "int32": 4, "bool": 1}


def ttc_op_cost(name: str, config: ModelConfig, kind: str, batch: int, phase: Phase, itemsize: int) -> Cost:
    """One call of an op of the domain `ttc` in a phase, in a layer of this kind or elsewhere."""
    dims = op_dims(config) | {"B": batch, "L": phase.tokens, "C": phase.capacity}
    if kind == LayerKind.MLP:
        dims["S"] = config.intermediate_size
    return op_cost(OPS_BY_NAME[name], dims, itemsize)


def node_cost(
    op: str,
    inputs: Sequence[Mapping[str, Sequence[int]]],
    outputs: Sequence[Mapping[str, Sequence[int]]],
) -> Cost:
    """Return the cost of a standard operator, given the types and shapes of its tensors.

    A product costs its multiplications and additions, another operator one operation per element that comes
    out. Tensors are given as `[{"float": [1, 16, 128]}, …]`.
    """
    if op in _NO_WORK:
        return Cost(0, 0)
    moved = float(sum(_bytes(tensor) for tensor in (*inputs, *outputs)))
    shapes = [shape for tensor in outputs for shape in tensor.values()]
    elements = math.prod(shapes[0]) if shapes else 0
    if op in _PRODUCTS and inputs and len(shapes[0]) > 1:
        first = next(iter(inputs[0].values()))
        rows = math.prod(shapes[0][:-1])
        return Cost(2.0 * elements * (math.prod(first) / rows), moved)
    return Cost(float(elements), moved)


def measure_limits() -> dict[str, float]:
    """Return what this machine reaches in a large matrix product and a large copy, by numpy, now:
    floating-point operations and bytes per second, with whatever else runs on it.
    """
    size = 512
    a = np.ones((size, size), np.float32)
    source = np.ones(2**24, np.uint8)
    target = np.empty_like(source)
    flops, copied = 0.0, 0.0
    for _ in range(3):
        start = time.perf_counter()
        a @ a
        middle = time.perf_counter()
        np.copyto(target, source)
        end = time.perf_counter()
        flops = max(flops, 2.0 * size**3 / passed(start, middle))
        copied = max(copied, 2.0 * source.nbytes / passed(middle, end))
    return {"flops_per_second": flops, "bytes_per_second": copied}


def _bytes(tensor: Mapping[str, Any]) -> int:
    total = 0
    for dtype, shape in tensor.items():
        size = _BY_ONNX_NAME.get(dtype)
        total += math.prod(shape) * (numpy_dtype(dtype).itemsize if size is None else size)
    return total
