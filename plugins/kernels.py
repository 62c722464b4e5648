"""All kernels, as the folders of the ops describe them. Importing this imports triton."""

from collections.abc import Mapping

from ttc.plugins.launch import KernelSpec
from ttc.plugins.table import LAUNCHED_OPS

__all__ = ["KERNELS"]

KERNELS: Mapping[str, KernelSpec] = {op.name: op.load("kernel") for op in LAUNCHED_OPS}
