"""Writes the ONNX function bodies of the ops a model uses into that model.

A body is made for one model: its attributes, all dimensions that the model fixes (heads, widths, numbers of
experts) and the dtypes of its weights stand in it as constants, so that only batch and length are looked up
when it runs.
"""

from collections.abc import Mapping
from typing import Any

import onnx_ir as ir
from onnx import parser

from ttc.plugins.ops import DOMAIN, DOMAIN_VERSION, PLUGIN_ATTRIBUTES
from ttc.plugins.table import OPS_BY_NAME

__all__ = ["ONNX_OPSET", "add_function_bodies", "function_body", "function_text"]

ONNX_OPSET = 21
# A model with a tensor of this dtype needs a later opset and version of the file format.
_LATER = ir.DataType.FLOAT4E2M1
_LATER_OPSET, _LATER_IR_VERSION = 23, 11


def add_function_bodies(model: ir.Model) -> bool:
    """Add the bodies of all `ttc` ops in the graph, and of the ops in those, and mark every call as a plugin.

    A model has one set of attribute values and fixed dimensions per op, since one configuration made it.
    Weights in float4_e2m1fn raise the model's opset; what the others in the graph mean is the same in both.
    Returns whether anything changed.
    """
    calls = [node for node in model.graph.all_nodes() if node.domain == DOMAIN]
    if any(value is not None and value.dtype == _LATER for node in calls for value in node.inputs):
        model.graph.opset_imports[""] = _LATER_OPSET
        model.ir_version = max(model.ir_version, _LATER_IR_VERSION)
    added = False
    for node in calls:
        attributes = {name: attribute.value for name, attribute in node.attributes.items()}
        added |= _add_body(model, node.op_type, _fixed_dims(node) | _words(node) | attributes)
    nested = [node for function in model.functions.values() for node in function.all_nodes()]
    marked = [_mark(node) for node in [*calls, *nested] if node.domain == DOMAIN]
    model.graph.opset_imports[DOMAIN] = DOMAIN_VERSION
    return added or any(marked)


def function_body(op_type: str, values: Mapping[str, Any], opset: int = ONNX_OPSET) -> ir.Function:
    """Return the body of one op for these attribute values, fixed dimensions and dtypes by their words."""
    return ir.serde.deserialize_function(parser.parse_function(function_text(op_type, values, opset)))


def function_text(op_type: str, values: Mapping[str, Any], opset: int = ONNX_OPSET) -> str:
    """Return the ONNX text of `function_body`."""
    head = f'<domain: "{DOMAIN}", opset_import: ["" : {opset}, "{DOMAIN}" : {DOMAIN_VERSION}]>'
    text: str = OPS_BY_NAME[op_type].load("function")(values)
    return head + text


def _add_body(model: ir.Model, op_type: str, values: Mapping[str, Any]) -> bool:
    if (DOMAIN, op_type, "") in model.functions:
        return False
    function = function_body(op_type, values, model.graph.opset_imports[""])
    model.functions[function.identifier()] = function
    for node in function.all_nodes():
        if node.domain == DOMAIN:  # an op and its parts have the same names for attributes and dimensions
            _add_body(model, node.op_type, values)
    return True


def _fixed_dims(node: ir.Node) -> dict[str, int]:
    """Return the size of every dimension that is a number in the graph."""
    spec, shapes = OPS_BY_NAME[node.op_type], []
    for tensor, value in zip(spec.inputs, node.inputs, strict=True):
        assert value is not None, f"{node.name}: {tensor.name} is missing"
        assert value.shape is not None, f"{node.name}: {tensor.name} has no shape"
        shapes.append([*value.shape])
    return {dim: size for dim, size in spec.dims(shapes, {}).items() if isinstance(size, int)}


def _words(node: ir.Node) -> dict[str, str]:
    """Return what the words of the op's signature stand for (`ttc.plugins.ops`)."""
    dtypes = [value.dtype for value in node.inputs if value is not None]
    assert None not in dtypes, f"{node.name}: an input has no dtype"
    return OPS_BY_NAME[node.op_type].words([str(dtype.numpy()) for dtype in dtypes if dtype is not None])


def _mark(node: ir.Node) -> bool:
    missing = PLUGIN_ATTRIBUTES.keys() - node.attributes.keys()
    for name in sorted(missing):
        value = PLUGIN_ATTRIBUTES[name]
        node.attributes[name] = (
            ir.AttrString(name, value) if isinstance(value, str) else ir.AttrInt64(name, value)
        )
    return bool(missing)
