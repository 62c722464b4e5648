"""FLOPs of the ops where layers meet: those of their parts."""

from collections.abc import Mapping

from ttc.plugins.moe_experts.cost import moe_combine
from ttc.plugins.residual_stream import cost as stream_ops

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


def residual_norm(dims: Mapping[str, int]) -> float:
    """Return those of a sum and a norm."""
    return dims["B"] * dims["L"] * dims["D"] + stream_ops.stream_norm(dims)


def mixture_residual_norm(dims: Mapping[str, int]) -> float:
    """Return those of the weighted sum of rows, two sums and a norm."""
    return moe_combine(dims) + stream_ops.mixture_residual(dims) + stream_ops.stream_norm(dims)


def gated_residual_norm(dims: Mapping[str, int]) -> float:
    """Return those of a gated sum and a norm."""
    return stream_ops.gated_residual(dims) + stream_ops.stream_norm(dims)


def gated_residual_modulated_norm(dims: Mapping[str, int]) -> float:
    """Return those of a gated sum and a norm of what is modulated."""
    return stream_ops.gated_residual(dims) + stream_ops.modulated_norm(dims)


def gated_residual_norm_modulated(dims: Mapping[str, int]) -> float:
    """Return the same: only the order differs."""
    return gated_residual_modulated_norm(dims)


def gated_mixture_residual_norm(dims: Mapping[str, int]) -> float:
    """Return those of the weighted sum of rows, a gated sum and a norm."""
    return moe_combine(dims) + stream_ops.gated_mixture_residual(dims) + stream_ops.stream_norm(dims)


def gated_mixture_residual_modulated_norm(dims: Mapping[str, int]) -> float:
    """Return those of the weighted sum of rows, a gated sum and a norm of what is modulated."""
    return moe_combine(dims) + stream_ops.gated_mixture_residual(dims) + stream_ops.modulated_norm(dims)


def gated_mixture_residual_norm_modulated(dims: Mapping[str, int]) -> float:
    """Return the same: only the order differs."""
    return gated_mixture_residual_modulated_norm(dims)
