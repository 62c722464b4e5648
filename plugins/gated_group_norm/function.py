"""`GatedGroupNorm` in standard ONNX operators."""

from collections.abc import Mapping
from typing import Any

from ttc.plugins.onnx_text import render

__all__ = ["gated_group_norm"]

_TEXT = """
GatedGroupNorm <G, epsilon> (y, z, weight) => (normed)
{
    y_f = Cast <to: int = 1> (y)
    z_f = Cast <to: int = 1> (z)
    opened = Sigmoid (z_f)
    gate = Mul (z_f, opened)
    gated_flat = Mul (y_f, gate)
    by_group = Constant <value_ints: ints = [0, 0, $G, $width]> ()
    gated = Reshape (gated_flat, by_group)
    square = Mul (gated, gated)
    last_axis = Constant <value_ints: ints = [-1]> ()
    mean = ReduceMean <keepdims: int = 1> (square, last_axis)
    epsilon_f = Constant <value_float: float = @epsilon> ()
    raised = Add (mean, epsilon_f)
    root = Sqrt (raised)
    inverse = Reciprocal (root)
    scaled = Mul (gated, inverse)
    flat = Constant <value_ints: ints = [0, 0, $M]> ()
    scaled_flat = Reshape (scaled, flat)
    weight_f = Cast <to: int = 1> (weight)
    weighted = Mul (scaled_flat, weight_f)
    normed = CastLike (weighted, y)
}
"""


def gated_group_norm(values: Mapping[str, Any]) -> str:
    """Return the ONNX text of `GatedGroupNorm` for this attribute G and fixed dimension M."""
    return render(_TEXT, {**values, "width": values["M"] // values["G"]})
