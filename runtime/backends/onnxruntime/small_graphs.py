"""Two small graphs that run where the towers do: the choice of AR's tokens, and copies of rows."""

from collections.abc import Mapping, Sequence
from typing import Final

import numpy as np
import onnx_ir as ir

from ttc.plugins.diffusion_step import DIFFUSION_PREDICT
from ttc.plugins.functions import ONNX_OPSET, add_function_bodies
from ttc.plugins.ops import DOMAIN
from ttc.runtime.gpu.executor import UNUSED_MASK_ID

__all__ = ["ROW_GRAPH", "row_graph", "sample_graph"]

# Inputs, then the output.
ROW_GRAPH: Final = ("target", "to", "source", "row", "changed")
_IR_VERSION = 10


def sample_graph(vocabulary: int) -> ir.Model:
    """Return the graph of `DiffusionPredict` in which no token is the mask: logits (B, L, V) → tokens."""
    sizes: Mapping[str, int | str] = {"V": vocabulary}
    inputs = [
        _value(t.name, t.dtype, [sizes.get(dim, dim) for dim in t.shape]) for t in DIFFUSION_PREDICT.inputs
    ]
    mask_id = ir.AttrInt64("mask_id", UNUSED_MASK_ID)
    count = len(DIFFUSION_PREDICT.outputs)
    node = ir.Node(
        DOMAIN, DIFFUSION_PREDICT.name, inputs, [mask_id], num_outputs=count, name="sample/predict"
    )
    for output, spec in zip(node.outputs, DIFFUSION_PREDICT.outputs, strict=True):
        _describe(output, spec.name, spec.dtype, list(spec.shape))
    model = _model("sample", inputs, node.outputs, [node])
    add_function_bodies(model)
    return model


def row_graph(dtype: str, rank: int) -> ir.Model:
    """Return the graph that gives `target` with one of its rows replaced by one of `source`.

    to, row: (1,) int64.
    """
    rows = [[f"{name}_{axis}" for axis in range(rank)] for name in ("target", "source")]
    inputs = [
        _value("target", dtype, rows[0]),
        _value("to", "int64", [1]),
        _value("source", dtype, rows[1]),
        _value("row", "int64", [1]),
    ]
    taken = ir.Node("", "Gather", [inputs[2], inputs[3]], [ir.AttrInt64("axis", 0)])
    column = ir.Value(name="column", const_value=ir.tensor(np.array([1, 1], np.int64), name="column"))
    where = ir.Node("", "Reshape", [inputs[1], column])
    put = ir.Node("", "ScatterND", [inputs[0], where.outputs[0], taken.outputs[0]])
    _describe(put.outputs[0], ROW_GRAPH[-1], dtype, rows[0])
    model = _model("rows", inputs, put.outputs, [taken, where, put])
    model.graph.initializers["column"] = column
    return model


def _value(name: str, dtype: str, shape: Sequence[int | str]) -> ir.Value:
    value = ir.Value(name=name)
    _describe(value, name, dtype, shape)
    return value


def _describe(value: ir.Value, name: str, dtype: str, shape: Sequence[int | str]) -> None:
    value.name, value.shape = name, ir.Shape(shape)
    value.type = ir.TensorType(ir.DataType.from_numpy(np.dtype(dtype)))


def _model(name: str, inputs: list[ir.Value], outputs: Sequence[ir.Value], nodes: list[ir.Node]) -> ir.Model:
    graph = ir.Graph(inputs, list(outputs), nodes=nodes, opset_imports={"": ONNX_OPSET}, name=name)
    return ir.Model(graph, ir_version=_IR_VERSION)
