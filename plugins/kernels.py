"""The one list of kernels: leaf op → how it is launched. Importing this imports triton."""

from collections.abc import Mapping

from ttc.plugins.diffusion_step import kernel as diffusion_step
from ttc.plugins.launch import Leaf
from ttc.plugins.mamba_advance import kernel as mamba_advance
from ttc.plugins.mamba_block_scan import kernel as mamba_block_scan
from ttc.plugins.moe_experts import kernel as moe_experts
from ttc.plugins.moe_routing import kernel as moe_routing

__all__ = ["LEAVES"]

LEAVES: Mapping[str, Leaf] = {
    leaf.op.name: leaf
    for leaf in (
        *moe_routing.LEAVES,
        *moe_experts.LEAVES,
        *mamba_block_scan.LEAVES,
        *mamba_advance.LEAVES,
        *diffusion_step.LEAVES,
    )
}
