"""Turn packed weights into inputs of the same names; the inverse of `inputs_to_initializers`.

1. An initializer whose name does not start with `constant.` is a weight of the model. It becomes a graph
   input of the same dtype and shape, after the inputs that there are, marked `ttc.kind = weight`.
2. Constants stay.

Engines then hold no weights: they are small, and the runtime binds the weights once for all of them.
"""

import onnx_ir as ir

__all__ = ["CONSTANT_PREFIX", "initializers_to_inputs"]

CONSTANT_PREFIX = "constant."


def initializers_to_inputs(model: ir.Model) -> bool:
    """Apply the rules above; return whether there was a weight."""
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
