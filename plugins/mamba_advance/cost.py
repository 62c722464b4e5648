"""FLOPs of `MambaAdvance`."""

from collections.abc import Mapping

__all__ = ["mamba_advance"]


def mamba_advance(dims: Mapping[str, int]) -> float:
    """Return the floating-point operations of one call for these sizes."""
    B, L, H, P, N = (dims[letter] for letter in "BLHPN")
    return 2 * B * H * L * P * N + 2 * B * H * P * N + 5 * B * H * L
