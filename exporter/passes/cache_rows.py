"""A context graph gives the block's own keys and values in place of whole caches.

1. An output `new_k_cache.i`, which is the input `k_cache.i` with the block's keys scattered into it, becomes
   `k_rows.i`: those keys (B, KV heads, L, head dim). So do values.
2. Nodes that nobody reads any more are removed.

An engine with such outputs moves L rows of a cache, not its capacity C; who runs it puts them in their place.
"""

import onnx_ir as ir

from ttc.errors import ExportError
from ttc.model.graphs import is_kv_cache, new_name, rows_name

__all__ = ["cache_rows"]


def cache_rows(model: ir.Model) -> bool:
    """Apply the rules above; whether there was such an output.

    Raises:
        ExportError: a cache is not made as `ttc export` makes it.
    """
    graph, changed = model.graph, False
    for place, output in enumerate(graph.outputs):
        cache = str(output.name).removeprefix(new_name(""))
        if cache == output.name or not is_kv_cache(cache):
            continue
        rows = _scattered(output)
        rows.name = rows_name(cache)
        graph.outputs[place] = rows
        changed = True
    if changed:
        _remove_unread(graph)
    return changed


def _scattered(output: ir.Value) -> ir.Value:
    """What a cache output scatters into the cache input."""
    scatter = output.producer()
    if scatter is not None and scatter.op_type == "ScatterElements":
        cache, _, rows = scatter.inputs
        if rows is not None and cache is not None and cache.is_graph_input():
            return rows
    made = "nothing" if scatter is None else scatter.op_type
    raise ExportError(
        f"output {output.name!r} is made by {made}; a ScatterElements into a graph input is due: "
        "export the checkpoint again with this ttc"
    )


def _remove_unread(graph: ir.Graph) -> None:
    for node in reversed(list(graph)):
        if not any(value.uses() or value.is_graph_output() for value in node.outputs):
            graph.remove(node, safe=True)
