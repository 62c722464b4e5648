"""Rewrites of an exported graph that both halves make: engines are built of the result, and ONNX Runtime
runs it.
"""

import onnx_ir as ir

from ttc.errors import ExportError
from ttc.model.graphs import is_kv_cache, new_kv_name, new_name

__all__ = ["caches_to_new_kv", "remove_unread_nodes"]


def caches_to_new_kv(model: ir.Model) -> bool:
    """Turn the caches that a context graph gives back into the block's new keys and values, in place.

    An output `new_k_cache.i`, which is the input `k_cache.i` with the block's keys scattered into it, becomes
    those keys (B, KV heads, L, head dim). So do values. `ttc.model.graphs` has their names. A call then moves
    L keys and values of each row, not the capacity C of the cache; who makes it appends them to the cache.

    Returns whether there was such an output.

    Raises:
        ExportError: a cache is not made as `ttc export` makes it.
    """
    graph, changed = model.graph, False
    for i, output in enumerate(graph.outputs):
        cache = str(output.name).removeprefix(new_name(""))
        if cache == output.name or not is_kv_cache(cache):
            continue
        new_kv = _scattered(output)
        new_kv.name = new_kv_name(cache)
        graph.outputs[i] = new_kv
        changed = True
    if changed:
        remove_unread_nodes(graph)
    return changed


def remove_unread_nodes(graph: ir.Graph) -> None:
    """Remove every node whose outputs nobody reads, and the nodes that only those read."""
    for node in reversed(list(graph)):
        if not any(value.uses() or value.is_graph_output() for value in node.outputs):
            graph.remove(node, safe=True)


def _scattered(output: ir.Value) -> ir.Value:
    """Return what a cache output scatters into the cache input."""
    scatter = output.producer()
    if scatter is not None and scatter.op_type == "ScatterElements":
        cache, _, new_kv = scatter.inputs
        if new_kv is not None and cache is not None and cache.is_graph_input():
            return new_kv
    made = "nothing" if scatter is None else scatter.op_type
    raise ExportError(
        f"output {output.name!r} is made by {made}; a ScatterElements into a graph input is due: "
        "export the checkpoint again with this ttc"
    )
