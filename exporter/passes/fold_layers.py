"""Every layer of a tower becomes one node, so that tools that search node by node search layer by layer.

1. Nodes whose names begin with the same place ("layers.3.attention/", "embedding/", "head/", …) become the
   body of a function of the domain `ttc.layers`, and one call of it, which is named after the place.
2. What a body takes from outside are the call's inputs, each used; what is used outside are its outputs,
   under their old names.
3. Nodes without a place stay. A graph whose places do not follow one another is refused.
"""

from collections.abc import Sequence
from itertools import groupby

import onnx_ir as ir

from ttc.errors import InputError

__all__ = ["LAYERS_DOMAIN", "fold_layers"]

LAYERS_DOMAIN = "ttc.layers"


def fold_layers(model: ir.Model) -> bool:
    """Apply the rules above to a graph without functions; whether there was a layer to fold."""
    graph = model.graph
    runs = [(place, list(nodes)) for place, nodes in groupby(graph, _place)]
    places = [place for place, nodes in runs if place and nodes[0].domain != LAYERS_DOMAIN]
    if len(set(places)) != len(places):
        raise InputError(f"{graph.name}: nodes of one layer stand apart; fold the graph as it was exported")
    for place, nodes in runs:
        if place in places:
            _fold(model, str(place), nodes)
    if places:
        graph.opset_imports[LAYERS_DOMAIN] = 1
    return bool(places)


def _fold(model: ir.Model, place: str, nodes: Sequence[ir.Node]) -> None:
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
    name = "".join(word.capitalize() for word in place.replace("layers.", "layer.").split("."))
    call = ir.Node(LAYERS_DOMAIN, name, list(taken), num_outputs=len(given), name=place)
    graph.insert_before(nodes[0], call)
    for old, new in zip(given, call.outputs, strict=True):
        new.name, new.type, new.shape = old.name, old.type, old.shape
        old.name = f"{old.name}_inside"
        for user, index in tuple(old.uses()):
            if user not in inside:
                user.replace_input_with(index, new)
        for at, value in enumerate(graph.outputs):
            if value is old:
                graph.outputs[at] = new
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


def _place(node: ir.Node) -> str | None:
    place, slash, _ = (node.name or "").partition("/")
    return place if slash else None
