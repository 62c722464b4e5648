"""The one list of kernels: leaf op → how it is launched. Importing this imports triton."""

from collections.abc import Mapping

from ttc.plugins.launch import Leaf
from ttc.plugins.moe_experts import kernel as moe_experts

__all__ = ["LEAVES"]

LEAVES: Mapping[str, Leaf] = {leaf.op.name: leaf for leaf in (*moe_experts.LEAVES,)}
