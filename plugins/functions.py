"""Writes the ONNX function bodies of the ops a model uses into that model.

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
from ttc.plugins.ops import DOMAIN, DOMAIN_VERSION

__all__ = ["ONNX_OPSET", "PLUGIN_ATTRIBUTES", "add_function_bodies"]

ONNX_OPSET = 21
PLUGIN_ATTRIBUTES: Mapping[str, str | int] = {"plugin_namespace": DOMAIN, "aot": 1}

_BODIES: Mapping[str, Callable[[Mapping[str, Any]], dict[str, str]]] = {
    "MoeRouting": moe_routing.body,
    "MoeExperts": moe_experts.body,
    "MambaBlockScan": mamba_block_scan.body,
    "MambaConv": mamba_block_scan.conv_body,
    "MambaAdvance": mamba_advance.body,
    "DiffusionStep": diffusion_step.body,
}


def add_function_bodies(model: ir.Model) -> bool:
    """Add the bodies of all `ttc` ops in the graph, and of their nested ops, and mark every call as a plugin.

    A model has one set of attribute values per op, since one configuration made it. Returns whether anything
    changed.
    """
    calls = [node for node in model.graph.all_nodes() if node.domain == DOMAIN]
    added = False
    for node in calls:
        if (DOMAIN, node.op_type, "") in model.functions:
            continue
        attributes = {name: attribute.value for name, attribute in node.attributes.items()}
        for text in _BODIES[node.op_type](attributes).values():
            function = _parse(text)
            model.functions.setdefault(function.identifier(), function)
            added = True
    nested = [node for function in model.functions.values() for node in function.all_nodes()]
    marked = [_mark(node) for node in [*calls, *nested] if node.domain == DOMAIN]
    model.graph.opset_imports[DOMAIN] = DOMAIN_VERSION
    return added or any(marked)


def _mark(node: ir.Node) -> bool:
    missing = PLUGIN_ATTRIBUTES.keys() - node.attributes.keys()
    for name in sorted(missing):
        value = PLUGIN_ATTRIBUTES[name]
        node.attributes[name] = (
            ir.AttrString(name, value) if isinstance(value, str) else ir.AttrInt64(name, value)
        )
    return bool(missing)


def _parse(text: str) -> ir.Function:
    head = f'<domain: "{DOMAIN}", opset_import: ["" : {ONNX_OPSET}, "{DOMAIN}" : {DOMAIN_VERSION}]>'
    return ir.serde.deserialize_function(parser.parse_function(head + text))
