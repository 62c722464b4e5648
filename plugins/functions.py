"""Writes the ONNX function bodies of the ops a model uses into that model.

A body is made for one model: its attributes and all dimensions that the model fixes (heads, widths, numbers
of experts) stand in it as constants, so that only batch and length are looked up when it runs.

Every call of a `ttc` op carries `plugin_namespace="ttc"` and `aot=1`: TensorRT then prefers the plugin of
that name, ahead of time, and everything else ignores the two and inlines the body.
"""

from collections.abc import Callable, Mapping
from typing import Any

import onnx_ir as ir
from onnx import parser

from ttc.plugins.diffusion_step import function as diffusion_step
from ttc.plugins.mamba_advance import function as mamba_advance
from ttc.plugins.mamba_block_scan import function as mamba_block_scan
from ttc.plugins.moe_experts import function as moe_experts
from ttc.plugins.moe_routing import function as moe_routing
from ttc.plugins.ops import DOMAIN, DOMAIN_VERSION, OpSpec
from ttc.plugins.table import OPS

__all__ = ["BODIES", "ONNX_OPSET", "PLUGIN_ATTRIBUTES", "add_function_bodies", "function_body"]

ONNX_OPSET = 21
PLUGIN_ATTRIBUTES: Mapping[str, str | int] = {"plugin_namespace": DOMAIN, "aot": 1}

# Op name → ONNX text of its function for these values: attributes by name, fixed dimensions by letter.
BODIES: Mapping[str, Callable[[Mapping[str, Any]], str]] = {
    **moe_routing.BODIES,
    **moe_experts.BODIES,
    **mamba_block_scan.BODIES,
    **mamba_advance.BODIES,
    **diffusion_step.BODIES,
}

_SPECS: Mapping[str, OpSpec] = {op.name: op for op in OPS}


def add_function_bodies(model: ir.Model) -> bool:
    """Add the bodies of all `ttc` ops in the graph, and of the ops in those, and mark every call as a plugin.

    A model has one set of attribute values and fixed dimensions per op, since one configuration made it.
    Returns whether anything changed.
    """
    calls = [node for node in model.graph.all_nodes() if node.domain == DOMAIN]
    added = False
    for node in calls:
        attributes = {name: attribute.value for name, attribute in node.attributes.items()}
        added |= _add_body(model, node.op_type, _fixed_dims(node) | attributes)
    nested = [node for function in model.functions.values() for node in function.all_nodes()]
    marked = [_mark(node) for node in [*calls, *nested] if node.domain == DOMAIN]
    model.graph.opset_imports[DOMAIN] = DOMAIN_VERSION
    return added or any(marked)


def function_body(op_type: str, values: Mapping[str, Any]) -> ir.Function:
    """The body of one op for these attribute values and fixed dimensions."""
    head = f'<domain: "{DOMAIN}", opset_import: ["" : {ONNX_OPSET}, "{DOMAIN}" : {DOMAIN_VERSION}]>'
    return ir.serde.deserialize_function(parser.parse_function(head + BODIES[op_type](values)))


def _add_body(model: ir.Model, op_type: str, values: Mapping[str, Any]) -> bool:
    if (DOMAIN, op_type, "") in model.functions:
        return False
    function = function_body(op_type, values)
    model.functions[function.identifier()] = function
    for node in function.all_nodes():
        if node.domain == DOMAIN:  # an op and its launches have the same names for attributes and dimensions
            _add_body(model, node.op_type, values)
    return True


def _fixed_dims(node: ir.Node) -> dict[str, int]:
    """Letter → size of the dimensions that are numbers in the graph."""
    spec, shapes = _SPECS[node.op_type], []
    for tensor, value in zip(spec.inputs, node.inputs, strict=True):
        assert value is not None, f"{node.name}: {tensor.name} is missing"
        assert value.shape is not None, f"{node.name}: {tensor.name} has no shape"
        shapes.append([*value.shape])
    return {dim: size for dim, size in spec.dims(shapes, {}).items() if isinstance(size, int)}


def _mark(node: ir.Node) -> bool:
    missing = PLUGIN_ATTRIBUTES.keys() - node.attributes.keys()
    for name in sorted(missing):
        value = PLUGIN_ATTRIBUTES[name]
        node.attributes[name] = (
            ir.AttrString(name, value) if isinstance(value, str) else ir.AttrInt64(name, value)
        )
    return bool(missing)
