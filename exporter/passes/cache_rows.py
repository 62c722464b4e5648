"""A context graph gives the block's own keys and values in place of whole caches.

1. An output `new_k_cache.i`, which is the input `k_cache.i` with the block's keys scattered into it, becomes
   `k_rows.i`: those keys (B, KV heads, L, head dim). So do values.
2. Nodes that nobody reads any more are removed.

An engine with such outputs moves L rows of a cache, not its capacity C; who runs it puts them in their place.
"""

import onnx_ir as ir

__all__ = ["cache_rows"]


def cache_rows(model: ir.Model) -> bool:
    """Apply the rules above; whether there was such an output."""
    graph, changed = model.graph, False
    for place, output in enumerate(graph.outputs):
        kind, _, layer = str(output.name).partition("_cache.")
        if kind not in ("new_k", "new_v"):
            continue
        scatter = output.producer()
        assert scatter is not None, f"{output.name} is computed"
        cache, _, rows = scatter.inputs
        assert scatter.op_type == "ScatterElements", f"{output.name} comes from {scatter.op_type}"
        assert cache is not None, "the op has three inputs"
        assert cache.is_graph_input(), f"{output.name} is written into {cache.name}"
        assert rows is not None, "the op has three inputs"
        rows.name = f"{kind.removeprefix('new_')}_rows.{layer}"
        graph.outputs[place] = rows
        changed = True
    if changed:
        _remove_unread(graph)
    return changed


def _remove_unread(graph: ir.Graph) -> None:
    for node in reversed(list(graph)):
        if not any(value.uses() or value.is_graph_output() for value in node.outputs):
            graph.remove(node, safe=True)
