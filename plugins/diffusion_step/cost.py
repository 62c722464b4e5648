"""FLOPs of the prediction and of the commit rule."""

from collections.abc import Mapping

__all__ = ["diffusion_commit", "diffusion_predict"]


def diffusion_predict(dims: Mapping[str, int]) -> float:
    """Return the floating-point operations of one call for these sizes."""
    return 4 * dims["B"] * dims["L"] * dims["V"]


def diffusion_commit(dims: Mapping[str, int]) -> float:
    """Return the floating-point operations of one call for these sizes."""
    return 2 * dims["B"] * dims["L"] * dims["L"]
