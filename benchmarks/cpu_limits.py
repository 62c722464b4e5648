"""What one thread of this CPU reaches in ONNX Runtime's matrix products: the constants of `ttc plan` for it.

Three numbers, each the best of several tries, from products of the kinds a bundle has:

    bandwidth    one row by a constant matrix of 128 MiB, more than the caches hold
    arithmetic   64 rows by the same matrix, which the session laid out once, when it was made
    packing      4 rows by a stack of 16 matrices. The session lays only single matrices out beforehand; of a
                 stack, which the experts are, it does so in every call of more than one row. The rate is that
                 of the time beyond the arithmetic.
"""

import time
from collections.abc import Callable

import numpy as np
import onnx
import onnxruntime

from ttc.bench.identity import machine
from ttc.planning.machines import Machine

__all__ = ["measure_limits"]

_WIDTH, _COLUMNS, _STACK = 1024, 32768, 16
_TRIES = 9
_MODEL = """<ir_version: 10, opset_import: ["" : 21]>
g (float[T, K] x) => (float y) { p = MatMul (x, w) y = ReduceMax <keepdims = 0> (p) }"""


def measure_limits(clock: Callable[[], float] = time.perf_counter) -> Machine:
    """Return the limits of one thread; `clock` as in `ttc.bench.trace.watch`."""
    matrix = _product(np.ones((_WIDTH, _COLUMNS), np.float32))
    stack = _product(np.ones((_STACK, _WIDTH, _WIDTH), np.float32))
    bandwidth = 4 * _WIDTH * _COLUMNS / _seconds(matrix, 1, clock)
    flops = 2 * 64 * _WIDTH * _COLUMNS / _seconds(matrix, 64, clock)
    size = _STACK * _WIDTH**2
    packing = 4 * size / (_seconds(stack, 4, clock) - 2 * 4 * size / flops)
    return Machine(
        name=machine().cpu,
        bytes_per_second=bandwidth,
        flops_per_second=flops,
        memory_bytes=machine().memory_bytes or 1e12,
        source="measured in this run, one thread",
        packing_bytes_per_second=packing,
    )


def _product(weight: np.ndarray[tuple[int, ...], np.dtype[np.float32]]) -> onnxruntime.InferenceSession:
    """Return a session that multiplies by a constant; only the largest element of the product comes out."""
    model = onnx.parser.parse_model(_MODEL)
    model.graph.initializer.append(onnx.numpy_helper.from_array(weight, "w"))
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = 1
    return onnxruntime.InferenceSession(
        model.SerializeToString(), options, providers=["CPUExecutionProvider"]
    )


def _seconds(session: onnxruntime.InferenceSession, rows: int, clock: Callable[[], float]) -> float:
    """Return the seconds of the fastest call with so many rows."""
    feeds, found = {"x": np.ones((rows, _WIDTH), np.float32)}, []
    for _ in range(_TRIES):
        start = clock()
        session.run(None, feeds)
        found.append(clock() - start)
    return min(found)
