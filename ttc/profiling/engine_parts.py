"""From the operations of a call to its parts: which layer of the model, and which op, an engine's layer is
of.

A builder names what it makes after the nodes it made it from, and may fuse nodes of several ops or layers;
its time is then that of all of them together, and is shown under all of their names. What is fused over more
than two places, or keeps no node's name, is shown under "other".
"""

import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass

from ttc.formats.program import OP, Instruction
from ttc.model.config import ModelConfig, kind_label
from ttc.plugins.costs import Cost
from ttc.plugins.ops import DOMAIN
from ttc.plugins.table import OPS_BY_NAME
from ttc.profiling.costs import ttc_op_cost
from ttc.profiling.engine_profiler import OperationTime, Told
from ttc.profiling.phases import Phase
from ttc.profiling.report import Part
from ttc.profiling.trace import Span

__all__ = ["Nodes", "engine_parts", "place_of"]

# Name and outputs of an engine's call in a program → the names of the nodes that its segment calls node_0,
# node_1, …
Nodes = Mapping[tuple[str, ...], Sequence[str]]

# Ops that stand apart in an engine; the others are merged with what is around them.
_APART = frozenset(op.name for op in OPS_BY_NAME.values() if not op.glue)
_NODE = re.compile(r"(layers\.\d+|\bembedding|\btime|\bhead|\bstep)(?:\.\w+)?/(\w+(?:/\w+)*)")
_SEGMENT_NODE = re.compile(r"\bnode_(\d+)")
_LAYER = re.compile(r"\blayers\.(\d+)\.")
_PLAIN = "engine layer"


@dataclass(frozen=True, slots=True)
class _Piece:
    """Something that took time: where, by which op, and its name in the trace."""

    place: str
    op: str
    name: str
    begin: float
    seconds: float


def engine_parts(
    operations: Sequence[OperationTime],
    told: Mapping[str, Told],
    nodes: Nodes,
    config: ModelConfig,
    phase: Phase,
    clock: tuple[float, float],
    batch: int,
    itemsize: int,
) -> tuple[tuple[Part, ...], tuple[Span, ...]]:
    """Parts and spans of one call.

    Args:
        told: engine → what the inspector says of its layers.
        clock: begin and end of the call, in seconds.
    """
    groups: dict[tuple[str, str], list[_Piece]] = {}
    begin, end = clock
    spans = [Span(phase.name, phase.name, "backend call", begin * 1e6, (end - begin) * 1e6)]
    for operation in operations:
        for piece in _pieces(operation, told, nodes):
            groups.setdefault((piece.place, piece.op), []).append(piece)
            spans.append(Span(phase.name, piece.name, piece.op, piece.begin * 1e6, piece.seconds * 1e6))
    parts = []
    for (place, op), pieces in groups.items():
        seconds = sum(piece.seconds for piece in pieces)
        domain, _, name = op.partition("::")
        known = domain == DOMAIN and name in OPS_BY_NAME
        # An op that a builder took apart into layers is still one call of it.
        kind = _kind(place, config)
        cost = ttc_op_cost(name, config, kind, batch, phase, itemsize) if known else Cost(0, 0)
        layer = int(place.removeprefix("layers.")) if re.fullmatch(r"layers\.\d+", place) else None
        calls = 1 if known else len(pieces)
        parts.append(Part(place, layer, kind, op, seconds, seconds, calls, cost))
    return tuple(parts), tuple(spans)


def place_of(text: str) -> tuple[str, str]:
    """Place and op that an engine's layer has by the names of nodes in this text."""
    named: dict[str, None] = {}
    ops: dict[str, None] = {}
    for place, path in _NODE.findall(text):
        named[place] = None
        own = next((word for word in re.split(r"[/_]", path) if word in _APART), None)
        ops[_PLAIN if own is None else f"{DOMAIN}::{own}"] = None
    op = " + ".join(sorted(ops, reverse=True)) or _PLAIN
    if len(named) > 2:
        return "other", f"{_PLAIN} over {len(named)} places"
    return " + ".join(named) or "other", op


def _pieces(operation: OperationTime, told: Mapping[str, Told], nodes: Nodes) -> Iterator[_Piece]:
    instruction = operation.instruction
    if instruction is not None and instruction.kind == OP:
        op = f"{DOMAIN}::{instruction.name}"
        yield _Piece(_place_of_op(instruction), op, instruction.name, operation.begin, operation.seconds)
    elif operation.engine is not None:
        begin, layers = operation.begin, told.get(operation.engine, {})
        for name, seconds in operation.layers:
            text = f"{name} {layers.get(name, {}).get('Metadata', '')}"
            if instruction is not None:
                text = _with_names(text, nodes.get((instruction.name, *instruction.outputs), ()))
            place, op = place_of(text)
            yield _Piece(place, op, name, begin, seconds)
            begin += seconds
    elif operation.what == "enqueue":
        yield _Piece("other", "engine without layer times", "engine", operation.begin, operation.seconds)
    else:
        yield _Piece("state", operation.what, operation.what, operation.begin, operation.seconds)


def _with_names(text: str, names: Sequence[str]) -> str:
    """The text with the segment's names of nodes replaced by those of the graph."""

    def named(match: re.Match[str]) -> str:
        number = int(match[1])
        return names[number] if number < len(names) else match[0]

    return _SEGMENT_NODE.sub(named, text)


def _place_of_op(instruction: Instruction) -> str:
    """The layer whose tensors and weights a kernel between engines reads; "step" for the diffusion step's."""
    names = (*instruction.inputs, *instruction.outputs)
    layers = {int(number) for name in names for number in _LAYER.findall(name)}
    if len(layers) == 1:
        return f"layers.{layers.pop()}"
    return "other" if layers else "step"


def _kind(place: str, config: ModelConfig) -> str:
    """A layer's letter; where two places are fused, the names of both kinds."""
    letters = [config.pattern[int(p[7:])] if p.startswith("layers.") else p for p in place.split(" + ")]
    if len(letters) == 1:
        return letters[0]
    return " + ".join(dict.fromkeys(kind_label(letter) for letter in letters))
