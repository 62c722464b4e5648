"""FLOPs of the residual stream's ops."""

from collections.abc import Mapping

__all__ = [
    "gated_mixture_residual",
    "gated_residual",
    "mixture_residual",
    "modulated_norm",
    "norm_modulated",
    "stream_norm",
]


def stream_norm(dims: Mapping[str, int]) -> float:
    """Return those of square, sum, scale and weight."""
    return 4 * dims["B"] * dims["L"] * dims["D"]


def modulated_norm(dims: Mapping[str, int]) -> float:
    """Return those of the norm, of 1 + scale, product and sum, and of the layer's shift and scale."""
    return stream_norm(dims) + 2 * dims["B"] * dims["L"] * dims["D"] + 3 * dims["B"] * dims["D"]


def norm_modulated(dims: Mapping[str, int]) -> float:
    """Return the same: only the order differs."""
    return modulated_norm(dims)


def mixture_residual(dims: Mapping[str, int]) -> float:
    """Return those of two sums."""
    return 2 * dims["B"] * dims["L"] * dims["D"]


def gated_residual(dims: Mapping[str, int]) -> float:
    """Return those of a product and a sum, and of the layer's gate."""
    return 2 * dims["B"] * dims["L"] * dims["D"] + dims["B"] * dims["D"]


def gated_mixture_residual(dims: Mapping[str, int]) -> float:
    """Return those of `gated_residual` and one sum more."""
    return gated_residual(dims) + dims["B"] * dims["L"] * dims["D"]
