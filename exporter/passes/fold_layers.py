"""Fold every layer of a tower into one node, so that tools that search node by node search layer by layer.

1. Nodes whose names begin with the same scope ("layers.3.attention/", "embedding/", "head/", …) become the
   body of a function of the domain `ttc.layers`, and one call of it, which is named after the scope.
2. What a body takes from outside are the call's inputs, each used; what is used outside are its outputs,
   under their old names.
3. Nodes without a scope stay. A graph where the nodes of one scope stand apart is refused.
"""

from collections.abc import Sequence
from itertools import groupby

import onnx_ir as ir

from ttc.errors import InputError

__all__ = ["LAYERS_DOMAIN", "fold_layers"]

LAYERS_DOMAIN = "ttc.layers"


def fold_layers(model: ir.Model) -> bool:
    """Apply the rules above to a graph without functions; return whether there was a layer to fold.

    Raises:
        InputError: nodes of one layer stand apart.
    """
    graph = model.graph
    runs = [(scope, list(nodes)) for scope, nodes in groupby(graph, _scope)]
    scopes = [scope for scope, nodes in runs if scope and nodes[0].domain != LAYERS_DOMAIN]
    if len(set(scopes)) != len(scopes):
        raise InputError(f"{graph.name}: nodes of one layer stand apart; fold the graph as it was exported")
    for scope, nodes in runs:
        if scope in scopes:
            _fold(model, str(scope), nodes)
    if scopes:
        graph.opset_imports[LAYERS_DOMAIN] = 1
    return bool(scopes)


def _fold(model: ir.Model, scope: str, nodes: Sequence[ir.Node]) -> None:
    graph, inside = model.graph, set(nodes)
    taken = dict.fromkeys(
        value
        for node in nodes
        for value in node.inputs
        if value is not None and value.producer() not in inside
    )
    given = [
        value
        for node in nodes
        for value in node.outputs
        if value.is_graph_output() or any(user not in inside for user, _ in value.uses())
    ]
    name = "".join(word.capitalize() for word in scope.replace("layers.", "layer.").split("."))
    call = ir.Node(LAYERS_DOMAIN, name, list(taken), num_outputs=len(given), name=scope)
    graph.insert_before(nodes[0], call)
    for old, new in zip(given, call.outputs, strict=True):
        new.name, new.type, new.shape = old.name, old.type, old.shape
        old.name = f"{old.name}_inside"
        for user, index in tuple(old.uses()):
            if user not in inside:
                user.replace_input_with(index, new)
        for i, value in enumerate(graph.outputs):
            if value is old:
                graph.outputs[i] = new
    graph.remove(nodes)
    formal = {
        value: ir.Value(name=f"in_{number}", type=value.type, shape=value.shape)
        for number, value in enumerate(taken)
    }
    for node in nodes:
        for index, input_value in enumerate(node.inputs):
            if input_value in formal:
                node.replace_input_with(index, formal[input_value])
    body = ir.Graph(
        list(formal.values()), given, nodes=nodes, opset_imports={"": graph.opset_imports[""]}, name=name
    )
    function = ir.Function(LAYERS_DOMAIN, name, graph=body, attributes=[])
    model.functions[function.identifier()] = function


def _scope(node: ir.Node) -> str | None:
    scope, slash, _ = (node.name or "").partition("/")
    return scope if slash else None
