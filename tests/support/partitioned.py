"""Runs whole and cut graphs on the CPU: `ttc.runtime.gpu.partitioned` with ONNX Runtime for the segments, and
the ops between them by their function bodies or their naive ops.
"""

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import numpy.typing as npt
import onnx_ir as ir
import onnxruntime

from tests.support.fake_device import FakeDevice
from ttc.exporter.passes.partition import Partition
from ttc.formats.program import Instruction
from ttc.plugins.naive import run_naive
from ttc.plugins.ops import DOMAIN, PLUGIN_ATTRIBUTES
from ttc.plugins.table import OPS
from ttc.runtime.backends.torch.executor import view_of
from ttc.runtime.gpu.device import DeviceArray, Enqueue, Scope
from ttc.runtime.gpu.partitioned import PartitionedGraph, plan_buffers

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


def run_partition(partition: Partition, inputs: Arrays, level: str, functions: ir.Model | None) -> Arrays:
    """Buffers with the role "output" after two runs of the program at the same addresses.

    functions: the model whose function bodies stand for the ops; None: the naive ops do.
    """
    device = FakeDevice()
    scope = Scope(device)
    program = partition.program
    shapes = plan_buffers(program, SIZES).shapes
    tensors = {
        name: scope.array(buffer.dtype, shapes[name])
        for name, buffer in program.buffers.items()
        if buffer.role != "between"
    }
    segments = OrtBinder(device, partition.segments, level)
    ops = naive_binder(device) if functions is None else OrtBinder(device, {}, level, functions)
    work = PartitionedGraph(program, segments, ops).bind(scope, tensors, SIZES)
    for name, array in inputs.items():
        device.write(tensors[name], array)
    graph = device.capture(work)
    allocations = device.allocations
    for _ in range(2):  # what is left of the first run in the shared arena must not matter
        graph.launch()
    assert device.allocations == allocations
    outputs = [name for name, buffer in program.buffers.items() if buffer.role == "output"]
    made = {name: device.values(tensors[name]).copy() for name in outputs}
    scope.close()
    assert not device.blocks
    return made


class OrtBinder:
    """Instructions as ONNX Runtime sessions that read and write the buffers where they lie."""

    def __init__(
        self,
        device: FakeDevice,
        segments: Mapping[str, ir.Model],
        level: str,
        functions: ir.Model | None = None,
    ) -> None:
        self._device, self._segments, self._level, self._functions = device, segments, level, functions
        self._sessions: dict[Any, onnxruntime.InferenceSession] = {}

    def __call__(
        self,
        scope: Scope,
        instruction: Instruction,
        inputs: Sequence[DeviceArray],
        outputs: Sequence[DeviceArray],
    ) -> Enqueue:
        run = self._session(instruction, inputs)
        binding = run.io_binding()
        for i, array in enumerate(inputs):
            binding.bind_input(f"in_{i}", "cpu", 0, np.dtype(array.dtype), array.shape, array.address)
        for i, array in enumerate(outputs):
            binding.bind_output(f"out_{i}", "cpu", 0, np.dtype(array.dtype), array.shape, array.address)
        return lambda: self._device.enqueue(lambda stream: run.run_with_iobinding(binding))

    def _session(
        self, instruction: Instruction, inputs: Sequence[DeviceArray]
    ) -> onnxruntime.InferenceSession:
        if self._functions is None:
            key: Any = instruction.name
        else:
            key = (
                instruction.name,
                tuple(instruction.attributes.items()),
                *((a.dtype, a.shape) for a in inputs),
            )
        if key not in self._sessions:
            model = (
                self._segments[instruction.name]
                if self._functions is None
                else _op_model(instruction, inputs, self._functions)
            )
            self._sessions[key] = session(model, self._level)
        return self._sessions[key]


def naive_binder(device: FakeDevice) -> Any:
    """Ops as their naive ops."""
    specs = {op.name: op for op in OPS}

    def bind(
        scope: Scope, instruction: Instruction, inputs: Sequence[DeviceArray], outputs: Sequence[DeviceArray]
    ) -> Enqueue:
        read = [view_of(device, array) for array in inputs]
        written = [view_of(device, array) for array in outputs]

        def run(stream: int) -> None:
            made = run_naive(specs[instruction.name], *read, **instruction.attributes)
            for target, source in zip(written, made, strict=True):
                assert target.shape == source.shape
                target.copy_(source)

        return lambda: device.enqueue(run)

    return bind


def _op_model(instruction: Instruction, arrays: Sequence[DeviceArray], functions: ir.Model) -> ir.Model:
    """A model that calls one op."""
    inputs = [
        ir.Value(
            name=f"in_{i}",
            type=ir.TensorType(ir.DataType.from_numpy(np.dtype(array.dtype))),
            shape=ir.Shape(array.shape),
        )
        for i, array in enumerate(arrays)
    ]
    attributes = ir.convenience.convert_attributes({**instruction.attributes, **PLUGIN_ATTRIBUTES})
    node = ir.Node(DOMAIN, instruction.name, inputs, attributes, num_outputs=len(instruction.outputs))
    for i, value in enumerate(node.outputs):
        value.name = f"out_{i}"
    imports = dict(functions.graph.opset_imports)
    graph = ir.Graph(inputs, node.outputs, nodes=[node], opset_imports=imports, name=instruction.name)
    return ir.Model(graph, ir_version=functions.ir_version, functions=list(functions.functions.values()))
