"""How much GPU memory a graph takes, from the shapes written in it.

Weights, state and results are exact. Work memory is an estimate: the largest sum of tensors that are alive at
once when nodes run one by one, with what the bodies of the `ttc` ops keep inside. A compiler that fuses needs
less.
"""

from collections.abc import Mapping
from dataclasses import dataclass

import onnx_ir as ir

from ttc.dims import evaluate
from ttc.exporter.dims import shape_of
from ttc.exporter.passes.free_weights import CONSTANT_PREFIX
from ttc.plugins.ops import DOMAIN

__all__ = ["Memory", "graph_memory"]


@dataclass(frozen=True, slots=True)
class Memory:
    """Bytes on the GPU at the largest sizes of a profile: weights, state (and other inputs), results (logits
    and new state), and an estimate of the work memory.
    """

    weights: int
    state: int
    results: int
    work: int

    @property
    def total(self) -> int:
        """All of it."""
        return self.weights + self.state + self.results + self.work


def graph_memory(model: ir.Model, sizes: Mapping[str, int]) -> Memory:
    """Memory of one graph at these sizes of its letters."""
    graph = model.graph
    weights = [v for v in graph.inputs if v.metadata_props.get("ttc.kind") == "weight"]
    packed = [v for name, v in graph.initializers.items() if not name.startswith(CONSTANT_PREFIX)]
    others = [v for v in graph.inputs if v.metadata_props.get("ttc.kind") != "weight"]
    return Memory(
        sum(_bytes(value, sizes) for value in (*weights, *packed)),
        sum(_bytes(value, sizes) for value in others),
        sum(_bytes(value, sizes) for value in graph.outputs),
        _work(graph, sizes),
    )


def _bytes(value: ir.Value, sizes: Mapping[str, int]) -> int:
    if value.dtype is None or value.shape is None:
        return 0  # inside a foreign graph without inferred shapes
    count = 1
    for dim in shape_of(value):
        count *= evaluate(dim, sizes)
    return int(count * value.dtype.itemsize)


def _work(graph: ir.Graph, sizes: Mapping[str, int]) -> int:
    nodes = list(graph)
    last = {value: place for place, node in enumerate(nodes) for value in node.inputs if value is not None}
    ends: dict[int, int] = {}
    alive = peak = 0
    for place, node in enumerate(nodes):
        for value in node.outputs:
            size = 0 if value.is_graph_output() else _bytes(value, sizes)
            alive += size
            end = last.get(value, place)
            ends[end] = ends.get(end, 0) + size
        peak = max(peak, alive + _inside(node, sizes))
        alive -= ends.pop(place, 0)
    return peak


def _inside(node: ir.Node, sizes: Mapping[str, int]) -> int:
    """What the body of a `ttc` op keeps, beside its inputs and outputs."""
    if node.domain != DOMAIN:
        return 0
    shapes = [[evaluate(dim, sizes) for dim in shape_of(value)] for value in node.inputs if value is not None]
    first = node.inputs[0]
    item = first.dtype.itemsize if first is not None and first.dtype is not None else 4
    if node.op_type == "MoeExperts":
        # Every expert on every token: hidden (E, T, I) twice, and its product (E, T, D).
        (tokens, width), (experts, hidden, _) = shapes[0], shapes[1]
        return int(experts * tokens * (2 * hidden + width) * item)
    if node.op_type == "MambaBlockScan":
        # Decays and scores, both (B, H, L, L) float32.
        rows, length, heads = shapes[1]
        return 2 * rows * heads * length * length * 4
    return 0
