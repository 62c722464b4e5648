"""Whether a graph has the form in which its state can be rewritten: that of `ttc export`.

The operators in place of ours take over how the state is read and written, lengths and counts with it. So
only the ops themselves may read it, as it comes in, and what they give has to be what goes out. A graph that
does anything else with it, by mistake or on purpose, keeps its bodies, and computes what it says.
"""

from collections.abc import Iterable

import onnx_ir as ir

from ttc.model.graphs import is_kv_cache, is_mamba_state, new_name
from ttc.plugins.ops import DOMAIN

__all__ = ["has_native_form"]

_SCAN, _CONV, _ADVANCE, _ATTENTION = "MambaBlockScan", "MambaConv", "MambaAdvance", "BlockAttention"


def has_native_form(model: ir.Model) -> bool:
    """Return whether the ops of one graph, and they alone, read and make its state as it lies outside."""
    graph = model.graph
    calls = [node for node in graph if node.domain == DOMAIN]
    causal = any(is_kv_cache(str(value.name).removeprefix(new_name(""))) for value in graph.outputs)
    return (
        all(map(_is_read_by_ops, graph.inputs))
        and all(_takes_state(node, causal) for node in calls)
        and all(_is_made_by_ops(value, calls) for value in graph.outputs)
    )


def _is_read_by_ops(value: ir.Value) -> bool:
    readers = {(use.node.domain, use.node.op_type) for use in value.uses()}
    name = str(value.name)
    if is_mamba_state(name):
        return readers <= {(DOMAIN, op) for op in (_SCAN, _CONV, _ADVANCE)}
    if is_kv_cache(name):
        return readers <= {(DOMAIN, _ATTENTION), ("", "ScatterElements")}
    return name != "commit_len" or readers <= {(DOMAIN, _ADVANCE)}


def _takes_state(node: ir.Node, causal: bool) -> bool:
    """Whether an op's state, lengths and counts are inputs of the graph."""
    if node.op_type == _ATTENTION:
        lengths = node.inputs[5]
        return (
            _are_inputs(node.inputs[3:])
            and lengths is not None
            and lengths.name == "lengths"
            and bool(node.attributes["causal"].as_int()) == causal
        )
    if node.op_type == _ADVANCE:
        return _are_inputs((*node.inputs[3:5], node.inputs[7]))
    if node.op_type == _SCAN:
        return _are_inputs(node.inputs[2:4])
    return node.op_type != _CONV or _are_inputs(node.inputs[1:2])


def _is_made_by_ops(value: ir.Value, calls: Iterable[ir.Node]) -> bool:
    """Whether an output that is new state comes from an op of the layer that read the old one."""
    state, made = str(value.name).removeprefix(new_name("")), value.producer()
    if state == value.name or not (is_mamba_state(state) or is_kv_cache(state)):
        return True
    if made is None:
        return False
    if is_mamba_state(state):
        # After the layer's scan both know the same block; where there is none, `advance` is all there is.
        scans = [n for n in calls if n.op_type == _SCAN and n.inputs[2:4] == made.inputs[3:5]]
        return made.op_type == _ADVANCE and all(
            (n.inputs[0], n.outputs[1], n.inputs[1], *n.inputs[6:8]) == (*made.inputs[:3], *made.inputs[5:7])
            for n in scans
        )
    return any(
        made.op_type == "ScatterElements"
        and made.inputs[0] in n.inputs[3:5]
        and _split_into_heads(made.inputs[2]) is n.inputs[1 + [*n.inputs[3:5]].index(made.inputs[0])]
        for n in calls
        if n.op_type == _ATTENTION
    )


def _split_into_heads(value: ir.Value | None) -> ir.Value | None:
    """Return what a transposed reshape was made of; None where a value is none."""
    for op in ("Transpose", "Reshape"):
        node = None if value is None else value.producer()
        if node is None or node.op_type != op:
            return None
        value = node.inputs[0]
    return value


def _are_inputs(values: Iterable[ir.Value | None]) -> bool:
    return all(value is not None and value.is_graph_input() for value in values)
