"""Runs an op by its naive torch twin."""

from collections.abc import Callable, Mapping
from typing import Any

from torch import Tensor

from ttc.plugins.diffusion_step.naive import diffusion_commit, diffusion_predict, diffusion_step
from ttc.plugins.mamba_advance.naive import mamba_advance
from ttc.plugins.mamba_block_scan.naive import mamba_block_scan, mamba_conv, mamba_scan
from ttc.plugins.moe_experts.naive import moe_combine, moe_down, moe_experts, moe_up
from ttc.plugins.moe_routing.naive import moe_routing
from ttc.plugins.ops import OpSpec

__all__ = ["NAIVE", "run_naive"]

NAIVE: Mapping[str, Callable[..., tuple[Tensor, ...]]] = {
    "MoeRouting": moe_routing,
    "MoeExperts": moe_experts,
    "MoeUp": moe_up,
    "MoeDown": moe_down,
    "MoeCombine": moe_combine,
    "MambaBlockScan": mamba_block_scan,
    "MambaConv": mamba_conv,
    "MambaScan": mamba_scan,
    "MambaAdvance": mamba_advance,
    "DiffusionStep": diffusion_step,
    "DiffusionPredict": diffusion_predict,
    "DiffusionCommit": diffusion_commit,
}


def run_naive(op: OpSpec, *inputs: Tensor, **attributes: Any) -> tuple[Tensor, ...]:
    """Outputs of one op, computed in plain torch."""
    return NAIVE[op.name](*inputs, **attributes)
