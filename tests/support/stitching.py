"""Runs a cut graph on ONNX Runtime: its segments as they are, the ops between them by their function
bodies.
"""

from collections.abc import Mapping
from typing import Any

import numpy as np
import numpy.typing as npt
import onnx_ir as ir
import onnxruntime

from ttc.exporter.passes.cut import Cut
from ttc.plugins.functions import PLUGIN_ATTRIBUTES
from ttc.plugins.ops import DOMAIN
from ttc.program import ENGINE, Step

Arrays = dict[str, npt.NDArray[Any]]
SIZES = {"B": 2, "L": 5, "C": 24, "R": 3}


def session(model: ir.Model, level: str) -> onnxruntime.InferenceSession:
    """One thread, and the optimisation level of this name."""
    options = onnxruntime.SessionOptions()
    options.graph_optimization_level = getattr(onnxruntime.GraphOptimizationLevel, f"ORT_{level}")
    options.intra_op_num_threads = options.inter_op_num_threads = 1
    content = ir.to_proto(model).SerializeToString()
    return onnxruntime.InferenceSession(content, options, providers=["CPUExecutionProvider"])


def feeds(graph: ir.Graph, weights: Mapping[str, Any], vocabulary: int, seed: int) -> Arrays:
    """Something sensible for every input that is no weight."""
    draw = np.random.default_rng(seed)
    B, L, C = SIZES["B"], SIZES["L"], SIZES["C"]
    whole = {
        "lengths": draw.integers(1, C - L, B),
        "commit_len": draw.integers(0, L + 1, B),
        "logit_positions": draw.integers(0, L, (B, SIZES["R"])),
        "steps_left": draw.integers(1, 8, B),
        "position": draw.integers(0, 100, B),
        "step": draw.integers(0, 8, B),
        "row_key": draw.integers(0, 2**31 - 1, B),
    }
    found: Arrays = {}
    for value in graph.inputs:
        name = str(value.name)
        if name in weights:
            continue
        assert value.dtype is not None
        assert value.shape is not None
        shape = [dim if isinstance(dim, int) else SIZES[str(dim)] for dim in value.shape]
        if name in ("input_ids", "block_ids"):
            array: Any = np.where(draw.random(shape) < 0.4, 3, draw.integers(0, vocabulary, shape))
        elif name in whole:
            array = whole[name]
        elif name in ("t", "threshold", "temperature"):
            array = draw.random(shape) - (0.5 if name == "t" else 0.0)
        else:
            array = draw.standard_normal(shape)
        found[name] = np.asarray(array).astype(value.dtype.numpy())
    return found


def run_whole(model: ir.Model, inputs: Arrays, level: str) -> Arrays:
    """Outputs of a graph."""
    run = session(model, level)
    return dict(zip((output.name for output in run.get_outputs()), run.run(None, inputs), strict=True))


def run_cut(cut: Cut, functions: ir.Model, inputs: Arrays, level: str) -> Arrays:
    """Buffers with the role "output" after all steps of the program."""
    buffers = dict(inputs)
    sessions: dict[Any, onnxruntime.InferenceSession] = {}
    for step in cut.program.steps:
        read = [buffers[name] for name in step.inputs]
        key = (step.name, tuple(step.attributes.items()), len(read), *((a.dtype, a.shape) for a in read))
        if key not in sessions:
            sessions[key] = session(
                cut.segments[step.name] if step.kind == ENGINE else _op_model(step, read, functions), level
            )
        made = sessions[key].run(
            [f"out_{place}" for place in range(len(step.outputs))],
            {f"in_{place}": array for place, array in enumerate(read)},
        )
        buffers.update(zip(step.outputs, made, strict=True))
    return {name: buffers[name] for name, buffer in cut.program.buffers.items() if buffer.role == "output"}


def _op_model(step: Step, arrays: list[npt.NDArray[Any]], functions: ir.Model) -> ir.Model:
    """A model that calls one op."""
    inputs = [
        ir.Value(
            name=f"in_{place}",
            type=ir.TensorType(ir.DataType.from_numpy(array.dtype)),
            shape=ir.Shape(array.shape),
        )
        for place, array in enumerate(arrays)
    ]
    attributes = ir.convenience.convert_attributes({**step.attributes, **PLUGIN_ATTRIBUTES})
    node = ir.Node(DOMAIN, step.name, inputs, attributes, num_outputs=len(step.outputs))
    for place, value in enumerate(node.outputs):
        value.name = f"out_{place}"
    imports = dict(functions.graph.opset_imports)
    graph = ir.Graph(inputs, node.outputs, nodes=[node], opset_imports=imports, name=step.name)
    return ir.Model(graph, ir_version=functions.ir_version, functions=list(functions.functions.values()))
