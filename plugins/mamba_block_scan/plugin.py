"""The TensorRT plugins of `MambaConv` and `MambaScan`."""

from types import ModuleType

from ttc.plugins.mamba_block_scan import MAMBA_CONV, MAMBA_SCAN
from ttc.plugins.tensorrt_qdp import Target, register_leaf

__all__ = ["PLUGINS", "register"]

PLUGINS = (MAMBA_CONV, MAMBA_SCAN)


def register(trtp: ModuleType, target: Target) -> None:
    """Register the plugins with `tensorrt.plugin`; kernels are loaded when TensorRT asks for them."""
    for op in PLUGINS:
        register_leaf(trtp, op, "ttc.plugins.mamba_block_scan.kernel", target)
