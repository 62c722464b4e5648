"""Replace every `ttc` op by the standard operators of its body, under names that tell where they were.

1. Every function is inlined, or those that are named; without a choice the model has none afterwards.
2. A node out of a primitive op is named "<scope>/<op>/<operator>_<number>", where the scope is the first part
   of the calling node's name ("layers.3.moe"); other nodes keep their names.

For tools that read names or do not know functions: a profiler, and graph surgery, which drops inputs of a
function that its body does not use.
"""

from collections.abc import Container

import onnx_ir as ir
from onnx_ir.passes.common import InlinePass

from ttc.plugins.ops import DOMAIN

__all__ = ["inline_ops"]


def inline_ops(model: ir.Model, names: Container[str] | None = None) -> bool:
    """Apply the rules above; return whether there was anything to inline.

    Args:
        model: the graph.
        names: of the functions to inline; None: all.
    """

    def is_chosen(function: ir.Function) -> bool:
        return names is None or function.name in names

    for function in filter(is_chosen, model.functions.values()):
        for node in function.all_nodes():
            node.metadata_props["ttc.op"] = function.name
    for node in model.graph.all_nodes():
        if node.domain == DOMAIN:
            node.metadata_props["ttc.scope"] = (node.name or "other").split("/", 1)[0]
    changed = bool(InlinePass(is_chosen)(model).modified)
    for number, node in enumerate(model.graph.all_nodes()):
        scope, op = (node.metadata_props.pop(f"ttc.{key}", None) for key in ("scope", "op"))
        if scope and op:
            node.name = f"{scope}/{op}/{node.op_type}_{number}"
    return changed
