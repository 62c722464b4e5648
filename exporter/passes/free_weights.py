"""Packed weights become inputs, named as they were.

1. An initializer whose name does not start with `constant.` is a weight of the model; it becomes a graph
   input of the same dtype and shape, behind the inputs there are, marked `ttc.kind = weight`.
2. Constants stay.

Engines then hold no weights: they are small, and the runtime binds the weights once for all of them.
"""

import onnx_ir as ir

__all__ = ["CONSTANT_PREFIX", "free_weights"]

CONSTANT_PREFIX = "constant."


def free_weights(model: ir.Model) -> bool:
    """Apply the rules above; whether there was a weight."""
    graph = model.graph
    weights = {
        name: value for name, value in graph.initializers.items() if not name.startswith(CONSTANT_PREFIX)
    }
    for name, value in weights.items():
        del graph.initializers[name]
        value.const_value = None
        value.metadata_props["ttc.kind"] = "weight"
        graph.inputs.append(value)
    return bool(weights)
