"""The ops where layers meet in ONNX: their parts, one after the other."""

from collections.abc import Mapping
from typing import Any

__all__ = [
    "gated_mixture_residual_modulated_norm",
    "gated_mixture_residual_norm",
    "gated_mixture_residual_norm_modulated",
    "gated_residual_modulated_norm",
    "gated_residual_norm",
    "gated_residual_norm_modulated",
    "mixture_residual_norm",
    "residual_norm",
]

_OF_MIXER, _OF_MIXTURE = "out", "rows, weights, grouped_rows, shared"
_COMBINED = """    combined = ttc.MoeCombine (rows, weights, grouped_rows)
    as_x = Shape (x)
    routed = Reshape (combined, as_x)
"""
_GATE = "modulation, t, table"
_SUMS = {
    "ResidualNorm": "    stream = Add (x, out)\n",
    "MixtureResidualNorm": _COMBINED + "    stream = ttc.MixtureResidual (x, routed, shared)\n",
    "Gated": f"    stream = ttc.GatedResidual (x, out, {_GATE})\n",
    "GatedMixture": _COMBINED + f"    stream = ttc.GatedMixtureResidual (x, routed, shared, {_GATE})\n",
}
_EPSILON = "<epsilon: float = @epsilon>"
_PLAIN = f"    normed = ttc.StreamNorm {_EPSILON} (stream, weight)\n"


def residual_norm(values: Mapping[str, Any]) -> str:
    """Return the ONNX text of `ResidualNorm`; nothing in it depends on the model."""
    return _text("ResidualNorm", _OF_MIXER, _SUMS["ResidualNorm"], _PLAIN)


def mixture_residual_norm(values: Mapping[str, Any]) -> str:
    """Return the ONNX text of `MixtureResidualNorm`; nothing in it depends on the model."""
    return _text("MixtureResidualNorm", _OF_MIXTURE, _SUMS["MixtureResidualNorm"], _PLAIN)


def gated_residual_norm(values: Mapping[str, Any]) -> str:
    """Return the ONNX text of `GatedResidualNorm`; nothing in it depends on the model."""
    return _text("GatedResidualNorm", f"{_OF_MIXER}, {_GATE}", _SUMS["Gated"], _PLAIN)


def gated_residual_modulated_norm(values: Mapping[str, Any]) -> str:
    """Return the ONNX text of `GatedResidualModulatedNorm`; nothing in it depends on the model."""
    return _modulated("GatedResidualModulatedNorm", _OF_MIXER, _SUMS["Gated"], "ModulatedNorm")


def gated_residual_norm_modulated(values: Mapping[str, Any]) -> str:
    """Return the ONNX text of `GatedResidualNormModulated`; nothing in it depends on the model."""
    return _modulated("GatedResidualNormModulated", _OF_MIXER, _SUMS["Gated"], "NormModulated")


def gated_mixture_residual_norm(values: Mapping[str, Any]) -> str:
    """Return the ONNX text of `GatedMixtureResidualNorm`; nothing in it depends on the model."""
    return _text("GatedMixtureResidualNorm", f"{_OF_MIXTURE}, {_GATE}", _SUMS["GatedMixture"], _PLAIN)


def gated_mixture_residual_modulated_norm(values: Mapping[str, Any]) -> str:
    """Return the ONNX text of `GatedMixtureResidualModulatedNorm`; nothing in it depends on the model."""
    name = "GatedMixtureResidualModulatedNorm"
    return _modulated(name, _OF_MIXTURE, _SUMS["GatedMixture"], "ModulatedNorm")


def gated_mixture_residual_norm_modulated(values: Mapping[str, Any]) -> str:
    """Return the ONNX text of `GatedMixtureResidualNormModulated`; nothing in it depends on the model."""
    name = "GatedMixtureResidualNormModulated"
    return _modulated(name, _OF_MIXTURE, _SUMS["GatedMixture"], "NormModulated")


def _text(name: str, inputs: str, add: str, norm: str) -> str:
    return f"\n{name} <epsilon> (x, {inputs}, weight) => (stream, normed)\n{{\n{add}{norm}}}\n"


def _modulated(name: str, inputs: str, add: str, norm: str) -> str:
    call = f"    normed = ttc.{norm} {_EPSILON} (stream, modulation, t, next_table, weight)\n"
    return _text(name, f"{inputs}, {_GATE}, next_table", add, call)
