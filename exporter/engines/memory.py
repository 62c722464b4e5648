"""How much GPU memory a graph takes, from the shapes written in it.

Weights, state and results are exact. Work memory is an estimate: the largest sum of the tensors that are
alive at once when nodes run one by one, with what the bodies of the `ttc` ops keep inside. A compiler that
fuses nodes needs less.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import onnx_ir as ir

from ttc.base.dims import evaluate
from ttc.exporter.passes.initializers_to_inputs import CONSTANT_PREFIX
from ttc.exporter.passes.shapes import shape_of
from ttc.model.graphs import is_kv_cache, is_mamba_state
from ttc.model.weights import GRAPH_OF, TOWER_GRAPHS
from ttc.plugins.moe_experts import MOE_EXPERTS
from ttc.plugins.moe_experts_blocked import MOE_EXPERTS_BLOCKED
from ttc.plugins.moe_experts_scaled import MOE_EXPERTS_SCALED
from ttc.plugins.ops import DOMAIN

__all__ = ["Memory", "graph_memory", "memory_per_gpu"]

# Bytes for every weight of a stack that TensorRT-RTX 1.7 writes to memory when it computes an op's body: a
# transposed copy of eight-bit weights, a decoded one of four-bit weights.
_WEIGHT_COPIES = {MOE_EXPERTS.name: 0, MOE_EXPERTS_SCALED.name: 1, MOE_EXPERTS_BLOCKED.name: 2}


@dataclass(frozen=True, slots=True)
class Memory:
    """Bytes on the GPU at the largest sizes of a profile.

    Attributes:
        weights: of the graph.
        kv_cache: of the context state that the graph reads.
        mamba_state: likewise.
        inputs: all others.
        results: logits, new state and whatever else comes out.
        work: an estimate of what lies between.
    """

    weights: int
    kv_cache: int
    mamba_state: int
    inputs: int
    results: int
    work: int

    @property
    def state(self) -> int:
        """Of the context state."""
        return self.kv_cache + self.mamba_state

    @property
    def total(self) -> int:
        """Of all of it."""
        return self.weights + self.state + self.inputs + self.results + self.work


def memory_per_gpu(graphs: Mapping[str, Memory]) -> dict[str, dict[str, int]]:
    """Return the bytes for each arrangement and GPU: both towers on one GPU, or one tower on each of two.

    Graphs on one GPU share the state and, as they run one after another, the work memory. The step is counted
    with the denoiser; `advance` is not counted, since it works on what the context tower has.

    Args:
        graphs: role → memory of the graph.

    Returns:
        "one" and "two" → name of the towers → bytes; empty without both towers.
    """
    if not set(GRAPH_OF.values()) <= graphs.keys():
        return {}
    parts = {
        GRAPH_OF[tower]: [graphs[role] for role in roles if role in graphs and role != "advance"]
        for tower, roles in TOWER_GRAPHS.items()
    }
    everything = [memory for memories in parts.values() for memory in memories]
    return {
        "one": {"both towers": _together(everything)},
        "two": {f"{tower} tower": _together(memories) for tower, memories in parts.items()},
    }


def _together(memories: Sequence[Memory]) -> int:
    state = max(memory.state for memory in memories)
    passing = sum(memory.inputs + memory.results for memory in memories)
    return sum(memory.weights for memory in memories) + state + passing + max(m.work for m in memories)


def graph_memory(model: ir.Model, sizes: Mapping[str, int]) -> Memory:
    """Return the memory of one graph at these sizes of its letters."""
    graph = model.graph
    weights = [v for v in graph.inputs if v.metadata_props.get("ttc.kind") == "weight"]
    packed = [v for name, v in graph.initializers.items() if not name.startswith(CONSTANT_PREFIX)]
    others = [v for v in graph.inputs if v.metadata_props.get("ttc.kind") != "weight"]
    return Memory(
        sum(_bytes(value, sizes) for value in (*weights, *packed)),
        sum(_bytes(value, sizes) for value in others if is_kv_cache(str(value.name))),
        sum(_bytes(value, sizes) for value in others if is_mamba_state(str(value.name))),
        sum(
            _bytes(value, sizes)
            for value in others
            if not is_kv_cache(str(value.name)) and not is_mamba_state(str(value.name))
        ),
        sum(_bytes(value, sizes) for value in graph.outputs),
        _work(graph, sizes),
    )


def _bytes(value: ir.Value, sizes: Mapping[str, int]) -> int:
    if value.dtype is None or value.shape is None:
        return 0  # inside a third-party graph without inferred shapes
    count = 1
    for dim in shape_of(value):
        count *= evaluate(dim, sizes)
    return int(count * value.dtype.itemsize)


def _work(graph: ir.Graph, sizes: Mapping[str, int]) -> int:
    nodes = list(graph)
    last = {value: i for i, node in enumerate(nodes) for value in node.inputs if value is not None}
    ends: dict[int, int] = {}
    alive = peak = 0
    for i, node in enumerate(nodes):
        for value in node.outputs:
            size = 0 if value.is_graph_output() else _bytes(value, sizes)
            alive += size
            end = last.get(value, i)
            ends[end] = ends.get(end, 0) + size
        peak = max(peak, alive + _inside(node, sizes))
        alive -= ends.pop(i, 0)
    return peak


def _inside(node: ir.Node, sizes: Mapping[str, int]) -> int:
    """Return the bytes that the body of a `ttc` op keeps, beside its inputs and outputs."""
    if node.domain != DOMAIN:
        return 0
    shapes = [[evaluate(dim, sizes) for dim in shape_of(value)] for value in node.inputs if value is not None]
    first = node.inputs[0]
    item = first.dtype.itemsize if first is not None and first.dtype is not None else 4
    if node.op_type in (MOE_EXPERTS.name, MOE_EXPERTS_SCALED.name, MOE_EXPERTS_BLOCKED.name):
        # Every expert on every token: hidden (E, T, I) twice, and its product (E, T, D).
        (tokens, width), (experts, hidden, _) = shapes[0], shapes[1]
        copies = _WEIGHT_COPIES[node.op_type] * experts * hidden * width
        return int(experts * tokens * (2 * hidden + width) * item + copies)
    if node.op_type == "MambaBlockScan":
        # Decays and scores, both (B, H, L, L) float32.
        rows, length, heads = shapes[1]
        return 2 * rows * heads * length * length * 4
    return 0
