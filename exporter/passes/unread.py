"""Removal of nodes that a pass has left without readers."""

import onnx_ir as ir

__all__ = ["remove_unread_nodes"]


def remove_unread_nodes(graph: ir.Graph) -> None:
    """Remove every node whose outputs nobody reads, and the nodes that only those read."""
    for node in reversed(list(graph)):
        if not any(value.uses() or value.is_graph_output() for value in node.outputs):
            graph.remove(node, safe=True)
