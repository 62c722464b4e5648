"""FLOPs of the convolution and of the scan in closed form."""

from collections.abc import Mapping

__all__ = ["mamba_conv", "mamba_scan"]


def mamba_conv(dims: Mapping[str, int]) -> float:
    """Return the floating-point operations of one call for these sizes."""
    return dims["B"] * dims["L"] * dims["F"] * (2 * dims["W"] + 3)


def mamba_scan(dims: Mapping[str, int]) -> float:
    """Return those of C·B of every pair of tokens, its decay, its product with x, and the seed's share."""
    B, L, H, P, G, N = (dims[letter] for letter in "BLHPGN")
    pairs = 2 * B * G * L * L * N + 4 * B * H * L * L + 2 * B * H * L * L * P
    return pairs + 2 * B * H * L * P * N + 6 * B * H * L * P
