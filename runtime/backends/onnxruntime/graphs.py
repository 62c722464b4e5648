"""Changes to a loaded graph before ONNX Runtime sees it: experts decoded, weights from outside, and low
precision made float32.
"""

from collections.abc import Container, Iterator

import onnx_ir as ir

from ttc.plugins.functions import add_function_bodies
from ttc.plugins.moe_experts import MOE_EXPERTS
from ttc.plugins.ops import DOMAIN
from ttc.plugins.table import OPS_BY_NAME

__all__ = ["decode_experts", "externalise_weights", "upcast"]

_LOW = (ir.DataType.BFLOAT16, ir.DataType.FLOAT16)


def decode_experts(model: ir.Model, compute_dtype: str) -> bool:
    """Replace the ops that take quantised experts by `MoeExperts`, in place; its weights are to come decoded.

    1. Every call of such an op keeps its inputs but the scales.
    2. The codes, inputs or initializers of the graph, become weights of the compute dtype without content.
    3. The scales go, and so do the bodies of the ops.

    Returns whether there was such an op.
    """
    graph = model.graph
    calls = [node for node in graph if node.domain == DOMAIN and OPS_BY_NAME[node.op_type].is_quantised]
    for node in calls:
        taken = dict(zip((spec.name for spec in OPS_BY_NAME[node.op_type].inputs), node.inputs, strict=True))
        plain = ir.Node(
            DOMAIN,
            MOE_EXPERTS.name,
            [taken[spec.name] for spec in MOE_EXPERTS.inputs],
            [],
            num_outputs=1,
            name=node.name,
        )
        old, new = node.outputs[0], plain.outputs[0]
        new.name, new.type, new.shape = old.name, old.type, old.shape
        ir.convenience.replace_all_uses_with(old, new)
        graph.insert_after(node, plain)
        graph.remove(node, safe=True)
        for name, value in taken.items():
            assert value is not None, f"{node.name}: {name} is missing"
            if name in ("up", "down"):
                value.const_value = None
                value.dtype = ir.DataType[compute_dtype.upper().replace("32", "")]
            elif not value.uses():
                _forget(graph, value)
    if calls:
        for identifier in [key for key in model.functions if OPS_BY_NAME[key[1]].is_quantised]:
            del model.functions[identifier]
        add_function_bodies(model)
    return bool(calls)


def _forget(graph: ir.Graph, value: ir.Value) -> None:
    """Remove an input or initializer that nobody reads."""
    if value.is_graph_input():
        graph.inputs.remove(value)
    else:
        graph.initializers.pop(str(value.name))


def externalise_weights(model: ir.Model, weights: Container[str]) -> list[str]:
    """Make every weight, graph input or initializer, an initializer whose content comes from outside. Returns
    their names.

    The external location is never opened: the session is given the values by name.
    """
    graph = model.graph
    used = []
    for value in [*graph.inputs, *graph.initializers.values()]:
        name = str(value.name)
        if name not in weights:
            continue
        used.append(name)
        assert value.shape is not None, f"weight {name} has no shape"
        assert value.dtype is not None, f"weight {name} has no dtype"
        value.const_value = ir.ExternalTensor(
            "given-in-memory", 0, None, value.dtype, shape=value.shape, name=name, base_dir=""
        )
        if value.is_graph_input():
            graph.inputs.remove(value)
            graph.register_initializer(value)
    return used


def upcast(model: ir.Model) -> None:
    """Turn bf16 and fp16 into float32 throughout, in place.

    1. Every value, initializer and cast of a low type becomes float32.
    2. Except the casts of the time embedding (scope "time/"): the model was trained with t, 1000·t and the
       sinusoid rounded to its dtype, and without that rounding the sinusoid differs by up to 1.7. There a
       cast to the low type stays and is followed by one back to float32.
    """
    for graph in [model.graph, *(function.graph for function in model.functions.values())]:
        for value in _values(graph):
            if value.dtype in _LOW:
                value.dtype = ir.DataType.FLOAT
            if value.const_value is not None and value.const_value.dtype in _LOW:
                value.const_value = _wide(value.const_value)
        for node in list(graph.all_nodes()):
            if node.op_type == "Cast" and node.attributes["to"].as_int() in _LOW:
                if (node.name or "").startswith("time/"):
                    _cast_back(graph, node)
                else:
                    node.attributes["to"] = ir.AttrInt64("to", ir.DataType.FLOAT)


def _values(graph: ir.Graph) -> Iterator[ir.Value]:
    yield from graph.inputs
    yield from graph.initializers.values()
    for node in graph.all_nodes():
        yield from node.outputs


def _wide(tensor: ir.TensorProtocol) -> ir.TensorProtocol:
    """The same tensor in float32; one whose content comes from outside stays without content."""
    if isinstance(tensor, ir.ExternalTensor):
        return ir.ExternalTensor(
            tensor.location, 0, None, ir.DataType.FLOAT, shape=tensor.shape, name=tensor.name, base_dir=""
        )
    return ir.Tensor(tensor.numpy().astype("float32"), name=tensor.name)


def _cast_back(graph: ir.Graph, node: ir.Node) -> None:
    rounded = node.outputs[0]
    back = ir.Node("", "Cast", [rounded], [ir.AttrInt64("to", ir.DataType.FLOAT)], name=f"{node.name}/back")
    back.outputs[0].name, back.outputs[0].shape = f"{rounded.name}/back", rounded.shape
    back.outputs[0].type = ir.TensorType(ir.DataType.FLOAT)
    rounded.type = ir.TensorType(ir.DataType(node.attributes["to"].as_int()))
    for user, index in tuple(rounded.uses()):
        if user is not back:
            user.replace_input_with(index, back.outputs[0])
    graph.insert_after(node, back)
