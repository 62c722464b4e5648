"""Partition a graph at its `ttc` ops: into segments, and a program that says how segments and ops alternate.

1. A node's level is the number of ops that must have run before it. An op runs after the segment of its own
   level.
2. A segment holds the nodes of one level. A node that can wait for a later level without delaying anything
   does, so that nothing is computed, or kept in a buffer, before it is needed.
3. What depends on shapes and constants only (a Reshape's target, a Range) is computed again in every segment
   that needs it: tensors of shapes never cross.
4. Segments that are equal but for names become one engine, with its tensors called in_0, in_1, … and out_0,
   out_1, …

This is the form "cut" of `ttc build`.
"""

import hashlib
from collections.abc import Container, Iterable, Sequence
from dataclasses import dataclass

import onnx_ir as ir

from ttc.errors import InputError
from ttc.exporter.passes.shapes import shape_of
from ttc.formats.program import ENGINE, OP, Buffer, Instruction, Program
from ttc.plugins.ops import DOMAIN
from ttc.plugins.table import OPS

__all__ = ["Partition", "partition"]

_ATTRIBUTES = {op.name: tuple(op.attributes) for op in OPS}


@dataclass(frozen=True, slots=True)
class Partition:
    """A partitioned graph.

    Attributes:
        segments: engine name → the network that the engine is built from.
        program: how engines and ops alternate.
        nodes: for every instruction of the program, the names of the graph's nodes that it computes. Number k
            of an engine's is called node_k in the segment.
    """

    segments: dict[str, ir.Model]
    program: Program
    nodes: tuple[tuple[str, ...], ...]


@dataclass(slots=True)
class _Levels:
    """Where every node goes.

    Attributes:
        of: node → its level.
        again: nodes that are computed again in every segment that needs them.
        count: how many levels there are.
    """

    of: dict[ir.Node, int]
    again: set[ir.Node]
    count: int


def partition(model: ir.Model, name: str) -> Partition:
    """Partition one graph, which stays as it is; its engines are called `name`-00, `name`-01 and so on.

    Raises:
        InputError: the graph has nested graphs, which no export of ttc has.
    """
    nodes = list(model.graph)
    _refuse_nested(nodes, name)
    levels = _levels(nodes)
    ops = [[n for n in nodes if n.domain == DOMAIN and levels.of[n] == k] for k in range(levels.count)]
    members = [_members(nodes, levels, k) for k in range(levels.count)]
    reads = [{value for node in segment for value in node.inputs} for segment in members]
    read_by_ops = {value for nodes in ops for node in nodes for value in node.inputs}

    segments: dict[str, ir.Model] = {}
    engines: dict[str, str] = {}
    instructions: list[Instruction] = []
    names: list[tuple[str, ...]] = []
    for level in range(levels.count):
        if members[level]:
            elsewhere = read_by_ops.union(*(reads[k] for k in range(levels.count) if k > level))
            segment, inputs, outputs = _segment(model, members[level], levels.again, elsewhere)
            key = hashlib.sha256(ir.to_proto(segment).SerializeToString(deterministic=True)).hexdigest()
            engine = engines.setdefault(key, f"{name}-{len(engines):02d}")
            segments.setdefault(engine, segment)
            instructions.append(Instruction(ENGINE, engine, inputs, outputs, {}))
            names.append(tuple(str(node.name) for node in members[level]))
        instructions.extend(_op_instruction(node) for node in ops[level])
        names.extend((str(node.name),) for node in ops[level])
    return Partition(segments, Program(_buffers(model, instructions), tuple(instructions)), tuple(names))


def _refuse_nested(nodes: Sequence[ir.Node], name: str) -> None:
    for node in nodes:
        if any(a.type in (ir.AttributeType.GRAPH, ir.AttributeType.GRAPHS) for a in node.attributes.values()):
            raise InputError(
                f"graph {name}: node {node.name!r} ({node.op_type}) holds a graph, which cannot be cut; "
                "build it with --form whole"
            )


def _levels(nodes: Sequence[ir.Node]) -> _Levels:
    found = _Levels({}, set(), 0)
    for node in nodes:
        found.of[node] = max((found.of[p] + (p.domain == DOMAIN) for p in _producers(node)), default=0)
        if node.domain != DOMAIN and _from_shapes(node, found.again):
            found.again.add(node)
    found.count = max(found.of.values(), default=-1) + 1
    for node in reversed(nodes):
        readers = [reader for value in node.outputs for reader, _ in value.uses()]
        if node.domain == DOMAIN or not readers:
            continue
        found.of[node] = min(found.of[reader] for reader in readers)
        if any(reader.domain == DOMAIN for reader in readers):
            found.again.discard(node)
    for node in nodes:
        kept = any(value.is_graph_output() for value in node.outputs) or not _from_shapes(node, found.again)
        if kept:
            found.again.discard(node)
    return found


def _members(nodes: Sequence[ir.Node], levels: _Levels, level: int) -> list[ir.Node]:
    """Return the nodes of one segment, each after what is computed again for it."""
    found: dict[ir.Node, None] = {}

    def add(node: ir.Node) -> None:
        for producer in _producers(node):
            if producer in levels.again and producer not in found:
                add(producer)
        found[node] = None

    for node in nodes:
        if node.domain != DOMAIN and node not in levels.again and levels.of[node] == level:
            add(node)
    return list(found)


def _producers(node: ir.Node) -> list[ir.Node]:
    return [
        producer for value in node.inputs if value is not None and (producer := value.producer()) is not None
    ]


def _from_shapes(node: ir.Node, again: set[ir.Node]) -> bool:
    """Return whether a node depends on nothing but shapes and constants."""
    if node.op_type == "Shape":
        return True
    return all(
        value is None
        or value.is_initializer()
        or (value.producer() is not None and value.producer() in again)
        for value in node.inputs
    )


def _segment(
    model: ir.Model,
    members: Sequence[ir.Node],
    again: Container[ir.Node],
    elsewhere: Container[ir.Value | None],
) -> tuple[ir.Model, tuple[str, ...], tuple[str, ...]]:
    """Make the segment of these nodes.

    Args:
        model: the graph.
        members: the nodes, in order.
        again: nodes that every segment computes for itself.
        elsewhere: what later instructions read.

    Returns:
        The segment, and the names that its inputs and outputs have in the graph.
    """
    graph = ir.Graph([], [], nodes=[], opset_imports={"": model.graph.opset_imports[""]}, name="segment")
    known: dict[ir.Value, ir.Value] = {}
    inputs: list[str] = []
    outputs: list[str] = []
    for node in members:
        copy = ir.Node(
            node.domain,
            node.op_type,
            [None if value is None else _own(graph, known, inputs, value) for value in node.inputs],
            list(node.attributes.values()),
            num_outputs=len(node.outputs),
            name=f"node_{len(graph)}",
        )
        for i, (old, new) in enumerate(zip(node.outputs, copy.outputs, strict=True)):
            new.name, new.type, new.shape = f"{copy.name}.{i}", old.type, old.shape
            known[old] = new
            if node not in again and (old.is_graph_output() or old in elsewhere):
                new.name = f"out_{len(outputs)}"
                outputs.append(str(old.name))
                graph.outputs.append(new)
        graph.append(copy)
    return ir.Model(graph, ir_version=model.ir_version, producer_name="ttc"), tuple(inputs), tuple(outputs)


def _own(graph: ir.Graph, known: dict[ir.Value, ir.Value], inputs: list[str], value: ir.Value) -> ir.Value:
    """Return the segment's own copy of a tensor that it reads; `known` and `inputs` grow."""
    if value in known:
        return known[value]
    if value.is_initializer():
        name = f"constant.{len(graph.initializers)}"
        own = ir.Value(name=name, type=value.type, shape=value.shape, const_value=value.const_value)
        graph.register_initializer(own)
    else:
        own = ir.Value(name=f"in_{len(inputs)}", type=value.type, shape=value.shape)
        inputs.append(str(value.name))
        graph.inputs.append(own)
    known[value] = own
    return own


def _op_instruction(node: ir.Node) -> Instruction:
    attributes = {name: node.attributes[name].value for name in _ATTRIBUTES[node.op_type]}
    return Instruction(OP, node.op_type, _names(node.inputs), _names(node.outputs), attributes)


def _names(values: Iterable[ir.Value | None]) -> tuple[str, ...]:
    return tuple(str(value.name) for value in values if value is not None)


def _buffers(model: ir.Model, instructions: Sequence[Instruction]) -> dict[str, Buffer]:
    """Return what every name in the instructions is, in order of first use."""
    graph = model.graph
    values = {str(value.name): value for node in graph for value in node.outputs}
    values |= {str(value.name): value for value in graph.inputs} | dict(graph.initializers)
    names = dict.fromkeys(name for each in instructions for name in (*each.inputs, *each.outputs))
    return {name: _buffer(values[name]) for name in names}


def _buffer(value: ir.Value) -> Buffer:
    assert value.dtype is not None, f"{value.name} has no dtype"
    if value.is_graph_input():
        role = "weight" if value.metadata_props.get("ttc.kind") == "weight" else "input"
    elif value.is_initializer():
        role = "weight"
    else:
        role = "output" if value.is_graph_output() else "between"
    return Buffer(role, str(value.dtype.numpy()), shape_of(value))
