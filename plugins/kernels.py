"""All kernels, as the folders of the ops describe them. Importing this imports triton."""

from collections.abc import Mapping

from ttc.plugins.launch import KernelSpec
from ttc.plugins.table import PRIMITIVE_OPS

__all__ = ["KERNELS"]

KERNELS: Mapping[str, KernelSpec] = {op.name: op.load("kernel") for op in PRIMITIVE_OPS}
