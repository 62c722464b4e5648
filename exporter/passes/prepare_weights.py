"""Take out of a network what it computes of a weight alone, so that it is done once, when weights are loaded.

1. A weight input whose every reader starts such a computation is replaced by inputs that are named as
   `ttc.formats.prepared_weights` says, one for each different computation, and their nodes are dropped.
2. A computation of a plain weight is a chain of Transpose, Cast to float32, and of float32 Exp and Neg; it
   ends where somebody else reads a value, too.
3. A weight that is also read as it is stays: it would be in memory twice.

TensorRT may fold a Transpose into the product that reads it, or may write 0.7 GB for the head's alone in
every call; it need not decide. In networks with the weights inside it computes all of this itself, when it
builds.
"""

from collections.abc import Iterator

import onnx_ir as ir

from ttc.formats.prepared_weights import EXP, FLOAT32, NEG, PreparedWeight, transpose_step

__all__ = ["prepare_weights"]

_PLAIN = (ir.DataType.BFLOAT16, ir.DataType.FLOAT16, ir.DataType.FLOAT)


def prepare_weights(model: ir.Model) -> bool:
    """Apply the rules above; return whether there was such a weight."""
    graph, changed = model.graph, False
    for value in list(graph.inputs):
        if value.metadata_props.get("ttc.kind") != "weight" or value.is_graph_output():
            continue
        readers = [node for node, _ in value.uses()]
        chains = [_chain(node) for node in readers]
        if not chains or not all(chains):
            continue
        prepared: dict[str, ir.Value] = {}
        for chain in chains:
            _replace(model, value, chain, prepared)
        graph.inputs.remove(value)
        changed = True
    return changed


def _chain(node: ir.Node) -> list[tuple[ir.Node, str]]:
    """Return the nodes of the computation that starts with a weight's reader, each with its step."""
    chain: list[tuple[ir.Node, str]] = []
    following: ir.Node | None = node
    while (
        following is not None
        and not following.outputs[0].is_graph_output()
        and (step := _step(following, chain))
    ):
        chain.append((following, step))
        following = _only_reader(following.outputs[0])
    return chain


def _step(node: ir.Node, before: list[tuple[ir.Node, str]]) -> str | None:
    source = node.inputs[0]
    if source is None or (not before and source.dtype not in _PLAIN):
        return None
    if node.op_type == "Transpose" and "perm" in node.attributes:
        return transpose_step(node.attributes["perm"].as_ints())
    if node.op_type == "Cast":
        return FLOAT32 if node.attributes["to"].as_int() == ir.DataType.FLOAT else None
    is_float32 = source.dtype == ir.DataType.FLOAT or any(step == FLOAT32 for _, step in before)
    return {"Exp": EXP, "Neg": NEG}.get(node.op_type) if is_float32 else None


def _only_reader(value: ir.Value) -> ir.Node | None:
    uses = list(value.uses())
    return uses[0][0] if len(uses) == 1 and not value.is_graph_output() else None


def _replace(
    model: ir.Model, weight: ir.Value, chain: list[tuple[ir.Node, str]], prepared: dict[str, ir.Value]
) -> None:
    """Let who reads the end of a chain read an input instead."""
    as_due = PreparedWeight(str(weight.name), tuple(step for _, step in chain))
    name = as_due.name
    if name not in prepared:
        value = ir.Value(name=name, shape=_shape(weight, chain), type=_type(weight, chain))
        value.metadata_props.update(weight.metadata_props)
        model.graph.inputs.append(value)
        prepared[name] = value
    end = chain[-1][0].outputs[0]
    ir.convenience.replace_all_uses_with(end, prepared[name], replace_graph_outputs=False)
    for node in _nodes(chain):
        model.graph.remove(node, safe=True)


def _nodes(chain: list[tuple[ir.Node, str]]) -> Iterator[ir.Node]:
    return (node for node, _ in reversed(chain))


def _shape(weight: ir.Value, chain: list[tuple[ir.Node, str]]) -> ir.Shape:
    assert weight.shape is not None, f"{weight.name} has no shape"
    dims = list(weight.shape)
    for node, _ in chain:
        if node.op_type == "Transpose":
            dims = [dims[axis] for axis in node.attributes["perm"].as_ints()]
    return ir.Shape(dims)


def _type(weight: ir.Value, chain: list[tuple[ir.Node, str]]) -> ir.TypeProtocol:
    assert weight.type is not None, f"{weight.name} has no dtype"
    is_float32 = any(step == FLOAT32 for _, step in chain)
    return ir.TensorType(ir.DataType.FLOAT) if is_float32 else weight.type
