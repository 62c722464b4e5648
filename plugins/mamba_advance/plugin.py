"""The TensorRT plugin of `MambaAdvance`."""

from types import ModuleType

from ttc.plugins.mamba_advance import MAMBA_ADVANCE
from ttc.plugins.tensorrt_qdp import Target, register_leaf

__all__ = ["PLUGINS", "register"]

PLUGINS = (MAMBA_ADVANCE,)


def register(trtp: ModuleType, target: Target) -> None:
    """Register the plugin with `tensorrt.plugin`; kernels are loaded when TensorRT asks for them."""
    for op in PLUGINS:
        register_leaf(trtp, op, "ttc.plugins.mamba_advance.kernel", target)
