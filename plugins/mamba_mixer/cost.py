"""FLOPs of the mixers: those of their parts."""

from collections.abc import Mapping

from ttc.plugins.mamba_advance.cost import mamba_advance
from ttc.plugins.mamba_block_scan.cost import mamba_conv, mamba_scan

__all__ = ["mamba_long_mixer", "mamba_mixer", "mamba_reading"]


def mamba_reading(dims: Mapping[str, int]) -> float:
    """Return those of convolution and scan."""
    channels = dims["H"] * dims["P"] + 2 * dims["G"] * dims["N"]
    return mamba_conv({**dims, "F": channels}) + mamba_scan(dims)


def mamba_mixer(dims: Mapping[str, int]) -> float:
    """Return those of convolution, scan and move."""
    return mamba_reading(dims) + mamba_advance(dims)


def mamba_long_mixer(dims: Mapping[str, int]) -> float:
    """Return those of scan and move."""
    return mamba_scan(dims) + mamba_advance(dims)
