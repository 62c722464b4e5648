"""FLOPs of reading splits and of merging them."""

from collections.abc import Mapping

from ttc.plugins.diffusion_step.cost import diffusion_commit, diffusion_predict

__all__ = ["split_choice", "split_commit", "split_predict"]


def split_predict(dims: Mapping[str, int]) -> float:
    """Return the floating-point operations of one call for these sizes."""
    return diffusion_predict(dims)


def split_choice(dims: Mapping[str, int]) -> float:
    """Return the floating-point operations of one call for these sizes."""
    return 4 * dims["B"] * dims["L"] * dims["X"]


def split_commit(dims: Mapping[str, int]) -> float:
    """Return the floating-point operations of one call for these sizes."""
    return split_choice(dims) + diffusion_commit(dims)
