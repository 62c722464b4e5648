"""One `ttc` op as an ONNX model of its own, run by ONNX Runtime through its function body."""

from collections.abc import Sequence
from typing import Any

import numpy as np
import numpy.typing as npt
import onnx
import onnx_ir as ir
import onnxruntime

from ttc.base.dims import letters
from ttc.plugins.functions import ONNX_OPSET, add_function_bodies
from ttc.plugins.ops import DOMAIN, OpSpec

Array = npt.NDArray[Any]
OPEN = {"B", "L", "T"}


def run_body(op: OpSpec, inputs: Sequence[Array], attributes: dict[str, Any]) -> list[Array]:
    """Outputs of the op's function body; the dimensions that a model leaves open are open here too."""
    values = [
        ir.Value(
            name=spec.name,
            type=ir.TensorType(ir.DataType.from_numpy(array.dtype)),
            shape=ir.Shape(
                [
                    dim if letters(dim) & OPEN else size
                    for dim, size in zip(spec.shape, array.shape, strict=True)
                ]
            ),
        )
        for spec, array in zip(op.inputs, inputs, strict=True)
    ]
    node = ir.Node(
        DOMAIN,
        op.name,
        values,
        [ir.convenience.convert_attribute(k, v) for k, v in attributes.items()],
        num_outputs=len(op.outputs),
    )
    for output, spec in zip(node.outputs, op.outputs, strict=True):
        output.name = spec.name
        dtype = inputs[0].dtype if spec.dtype == "compute" else np.dtype(spec.dtype)
        output.type = ir.TensorType(ir.DataType.from_numpy(dtype))
        output.shape = ir.Shape([f"{spec.name}_{axis}" for axis in range(len(spec.shape))])
    graph = ir.Graph(values, node.outputs, nodes=[node], opset_imports={"": ONNX_OPSET}, name="single_op")
    model = ir.Model(graph, ir_version=10)
    assert add_function_bodies(model)
    assert not add_function_bodies(model), "a second run changes nothing"
    proto = ir.serde.serialize_model(model)
    onnx.checker.check_model(proto)
    session = onnxruntime.InferenceSession(proto.SerializeToString(), providers=["CPUExecutionProvider"])
    feeds = {spec.name: array for spec, array in zip(op.inputs, inputs, strict=True)}
    outputs: list[Array] = session.run(None, feeds)
    return outputs
