"""Registers all `ttc` plugins with TensorRT, once a process."""

from types import ModuleType

from ttc.errors import BackendError
from ttc.plugins.diffusion_step import plugin as diffusion_step
from ttc.plugins.mamba_advance import plugin as mamba_advance
from ttc.plugins.mamba_block_scan import plugin as mamba_block_scan
from ttc.plugins.moe_experts import plugin as moe_experts
from ttc.plugins.moe_routing import plugin as moe_routing
from ttc.plugins.ops import DOMAIN, OpSpec
from ttc.plugins.tensorrt_qdp import Target

__all__ = ["PLUGINS", "register_all"]

_HOMES = (moe_routing, moe_experts, mamba_block_scan, mamba_advance, diffusion_step)
PLUGINS: tuple[OpSpec, ...] = tuple(op for home in _HOMES for op in home.PLUGINS)


def register_all(trtp: ModuleType, target: Target) -> None:
    """Make TensorRT's parser and builder know every leaf op, before a network with them is parsed.

    Args:
        trtp: the module `tensorrt.plugin`.
        target: gives the compute capability to compile kernels for, such as "9.0"; called at build time.

    Raises:
        BackendError: the plugins are registered already; TensorRT keeps them until the process ends.
    """
    if hasattr(trtp.op, DOMAIN):
        raise BackendError(
            f"plugins of the namespace {DOMAIN!r} are registered in this process already; register once, or "
            "build in a process of its own"
        )
    for home in _HOMES:
        home.register(trtp, target)
