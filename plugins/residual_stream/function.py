"""The residual stream's ops in standard ONNX operators."""

from collections.abc import Mapping
from typing import Any

from ttc.plugins.onnx_text import render

__all__ = [
    "gated_mixture_residual",
    "gated_residual",
    "mixture_residual",
    "modulated_norm",
    "norm_modulated",
    "stream_norm",
]

# $of → $norm, in float32.
_NORM = """
    wide = Cast <to: int = 1> ($of)
    square = Mul (wide, wide)
    last_axis = Constant <value_ints: ints = [-1]> ()
    mean = ReduceMean <keepdims: int = 1> (square, last_axis)
    epsilon_f = Constant <value_float: float = @epsilon> ()
    raised = Add (mean, epsilon_f)
    root = Sqrt (raised)
    inverse = Reciprocal (root)
    scaled = Mul (wide, inverse)
    weight_f = Cast <to: int = 1> (weight)
    weighted = Mul (scaled, weight_f)
    $norm = CastLike (weighted, x)
"""

# Of one layer: shift, scale, gate, each (B, 1, D).
_OF_LAYER = """
    first_axis = Constant <value_ints: ints = [0]> ()
    tables = Unsqueeze (table, first_axis)
    own = Add (modulation, tables)
    nothing = Constant <value_float: float = 0.0> ()
    is_conditioned = GreaterOrEqual (t, nothing)
    inner_axes = Constant <value_ints: ints = [1, 2]> ()
    conditioned = Unsqueeze (is_conditioned, inner_axes)
    neutral_f = Constant <value: tensor = float[3, 1] {0.0, 0.0, 1.0}> ()
    neutral = CastLike (neutral_f, table)
    of_layer = Where (conditioned, own, neutral)
    shift, scale, gate = Split <axis: int = 1, num_outputs: int = 3> (of_layer)
"""

# $of → $to.
_MODULATE = """
    one_f = Constant <value_float: float = 1.0> ()
    one = CastLike (one_f, scale)
    factor = Add (one, scale)
    stretched = Mul ($of, factor)
    $to = Add (stretched, shift)
"""

_MIX = """
    routed_c = CastLike (routed, x)
    out = Add (routed_c, shared)
"""

_GATE = """
    gated = Mul (gate, out)
    stream = Add (x, gated)
"""


def stream_norm(values: Mapping[str, Any]) -> str:
    """Return the ONNX text of `StreamNorm`; nothing in it depends on the model."""
    return _text("StreamNorm <epsilon> (x, weight) => (normed)", _norm("x", "normed"))


def modulated_norm(values: Mapping[str, Any]) -> str:
    """Return the ONNX text of `ModulatedNorm`; nothing in it depends on the model."""
    head = "ModulatedNorm <epsilon> (x, modulation, t, table, weight) => (normed)"
    return _text(head, _OF_LAYER + _modulate("x", "modulated") + _norm("modulated", "normed"))


def norm_modulated(values: Mapping[str, Any]) -> str:
    """Return the ONNX text of `NormModulated`; nothing in it depends on the model."""
    head = "NormModulated <epsilon> (x, modulation, t, table, weight) => (normed)"
    return _text(head, _OF_LAYER + _norm("x", "plain") + _modulate("plain", "normed"))


def mixture_residual(values: Mapping[str, Any]) -> str:
    """Return the ONNX text of `MixtureResidual`; nothing in it depends on the model."""
    return _text("MixtureResidual (x, routed, shared) => (stream)", _MIX + "\n    stream = Add (x, out)\n")


def gated_residual(values: Mapping[str, Any]) -> str:
    """Return the ONNX text of `GatedResidual`; nothing in it depends on the model."""
    return _text("GatedResidual (x, out, modulation, t, table) => (stream)", _OF_LAYER + _GATE)


def gated_mixture_residual(values: Mapping[str, Any]) -> str:
    """Return the ONNX text of `GatedMixtureResidual`; nothing in it depends on the model."""
    head = "GatedMixtureResidual (x, routed, shared, modulation, t, table) => (stream)"
    return _text(head, _MIX + _OF_LAYER + _GATE)


def _text(head: str, body: str) -> str:
    return f"\n{head}\n{{{body}}}\n"


def _norm(of: str, norm: str) -> str:
    return render(_NORM, {"of": of, "norm": norm})


def _modulate(of: str, to: str) -> str:
    return render(_MODULATE, {"of": of, "to": to})
