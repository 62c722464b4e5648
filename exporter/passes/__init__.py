"""Passes over a traced graph, one file each: `ir.Model → bool`, whether it changed anything. A second run
changes nothing.

The pipeline of an export, in order:

    add_function_bodies      `ttc` ops get their bodies and the attributes that TensorRT looks for
                             (`ttc.plugins.functions`)
    plain_reshapes           targets of Reshape that shapes decide become constants
    inputs_to_initializers   packed bundles only: weight inputs become initializers
    describe                 the file says what it is
"""

from collections.abc import Callable, Mapping, Sequence

import onnx_ir as ir

from ttc.exporter.passes.describe import describe
from ttc.exporter.passes.inputs_to_initializers import ReadWeight, inputs_to_initializers
from ttc.exporter.passes.plain_reshapes import plain_reshapes
from ttc.plugins.functions import add_function_bodies

__all__ = ["Pass", "pipeline", "run_passes"]

Pass = Callable[[ir.Model], bool]


def pipeline(
    weights: Mapping[str, ReadWeight], metadata: Mapping[str, str], *, packed: bool
) -> tuple[Pass, ...]:
    """Return the passes of one graph.

    Args:
        weights: graph weight name → reader of its content.
        metadata: what the file says of itself.
        packed: whether weights become initializers.
    """
    packing: tuple[Pass, ...] = (lambda model: inputs_to_initializers(model, weights),) if packed else ()
    return (add_function_bodies, plain_reshapes, *packing, lambda model: describe(model, weights, metadata))


def run_passes(model: ir.Model, passes: Sequence[Pass]) -> bool:
    """Run all passes in order; return whether any changed the model."""
    changed = [each(model) for each in passes]
    return any(changed)
