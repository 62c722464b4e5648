"""GPU architectures that kernels are compiled for."""

from collections.abc import Mapping
from typing import Final

__all__ = ["TARGETS"]

# Compute capability → PTX version (83 is 8.3): the first that knows the architecture and all that Triton
# emits for it. A later one would be refused by older drivers.
TARGETS: Final[Mapping[str, int]] = {
    "8.0": 83,
    "8.6": 83,
    "8.9": 83,
    "9.0": 83,
    "10.0": 86,
    "10.3": 88,
    "11.0": 90,
    "12.0": 87,
    "12.1": 88,
}
