"""Write into the file what it is, so that a single `.onnx` file that ttc exported is enough to build from.

1. The model's metadata gets every given key, under the prefix `ttc.`.
2. Every graph input that is a weight is marked `ttc.kind = weight`, every other `ttc.kind = tensor`.
"""

from collections.abc import Container, Mapping

import onnx_ir as ir

__all__ = ["PREFIX", "describe"]

PREFIX = "ttc."


def describe(model: ir.Model, weights: Container[str], metadata: Mapping[str, str]) -> bool:
    """Apply the rules above; return whether anything was new.

    Args:
        model: the graph.
        weights: names of the inputs that are weights.
        metadata: key, without the prefix → text.
    """
    wanted = {f"{PREFIX}{key}": text for key, text in metadata.items()}
    changed = any(model.metadata_props.get(key) != text for key, text in wanted.items())
    model.metadata_props.update(wanted)
    for value in model.graph.inputs:
        kind = "weight" if value.name in weights else "tensor"
        changed |= value.metadata_props.get(f"{PREFIX}kind") != kind
        value.metadata_props[f"{PREFIX}kind"] = kind
    return changed
