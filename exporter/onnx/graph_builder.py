"""Builds a tower's graph out of traced pieces.

A tower of 52 layers has four kinds of layers. Each kind is traced once; the trace is then copied into the
tower's graph once per layer, with the layer's own weights and names. So export time depends on the number of
kinds, not of layers, and every node carries its layer's name in a viewer.
"""

from collections.abc import Callable, Mapping

import numpy as np
import onnx_ir as ir

from ttc.plugins.functions import ONNX_OPSET

__all__ = ["GraphBuilder"]

IR_VERSION = 10


class GraphBuilder:
    """One ONNX graph being put together; constants with equal content are kept once."""

    def __init__(self, name: str) -> None:
        self._graph = ir.Graph([], [], nodes=[], opset_imports={"": ONNX_OPSET}, name=name)
        self._constants: dict[tuple[str, tuple[int, ...], bytes], ir.Value] = {}
        self._inputs: dict[str, ir.Value] = {}

    def append_copy(
        self, template: ir.Graph, scope: str, bound: Mapping[str, ir.Value], names: Mapping[str, str]
    ) -> dict[str, ir.Value]:
        """Copy a template into the graph.

        Args:
            template: a traced piece.
            scope: prefix of the copies' names.
            bound: values for some of the template's inputs, by name.
            names: graph input names of the others; one that is not listed keeps its own. The graph input is
                made on first use.

        Returns:
            The copies of the template's outputs, by name.
        """
        known = {value: self._constant(value) for value in template.initializers.values()}
        for value in template.inputs:
            name = str(value.name)
            known[value] = bound[name] if name in bound else self._input(names.get(name, name), value)
        for node in template:
            inputs = [None if value is None else known[value] for value in node.inputs]
            copy = ir.Node(
                node.domain,
                node.op_type,
                inputs,
                list(node.attributes.values()),
                num_outputs=len(node.outputs),
                name=f"{scope}/{node.op_type}_{node.outputs[0].name}",
            )
            for old, new in zip(node.outputs, copy.outputs, strict=True):
                new.name, new.type, new.shape = f"{scope}/{old.name}", old.type, _trusted_shape(old)
                known[old] = new
            self._graph.append(copy)
        return {str(value.name): known[value] for value in template.outputs}

    def finish(self, outputs: Mapping[str, ir.Value], is_weight: Callable[[str], bool]) -> ir.Model:
        """Return the model: inputs in order of use, the weights last, and these outputs under these names."""
        for name, value in outputs.items():
            value.name = name
        ordered = sorted(self._inputs.values(), key=lambda value: is_weight(str(value.name)))
        self._graph.inputs.extend(ordered)
        self._graph.outputs.extend(outputs.values())
        return ir.Model(self._graph, ir_version=IR_VERSION, producer_name="ttc")

    def _input(self, name: str, like: ir.Value) -> ir.Value:
        if name not in self._inputs:
            self._inputs[name] = ir.Value(name=name, type=like.type, shape=like.shape)
        return self._inputs[name]

    def _constant(self, value: ir.Value) -> ir.Value:
        tensor = value.const_value
        assert tensor is not None, f"template initializer {value.name} has no value"
        array = np.asarray(tensor.numpy(), order="C")  # ascontiguousarray would give a scalar a dimension
        key = (str(tensor.dtype), tuple(array.shape), array.tobytes())
        if key not in self._constants:
            name = f"constant.{len(self._constants)}"
            kept = ir.Tensor(array, dtype=tensor.dtype, name=name)
            constant = ir.Value(
                name=name, type=ir.TensorType(tensor.dtype), shape=ir.Shape(array.shape), const_value=kept
            )
            self._constants[key] = constant
            self._graph.register_initializer(constant)
        return self._constants[key]


def _trusted_shape(value: ir.Value) -> ir.Shape | None:
    """The traced shape, but none for size arithmetic: the tracer calls its one-element tensors scalars."""
    size = value.dtype == ir.DataType.INT64 and value.shape is not None and len(value.shape) == 0
    return None if size else value.shape
