"""The TensorRT plugins of `MoeUp`, `MoeDown` and `MoeCombine`."""

from types import ModuleType

from ttc.plugins.moe_experts import MOE_COMBINE, MOE_DOWN, MOE_UP
from ttc.plugins.tensorrt_qdp import Target, register_leaf

__all__ = ["PLUGINS", "register"]

PLUGINS = (MOE_COMBINE, MOE_DOWN, MOE_UP)


def register(trtp: ModuleType, target: Target) -> None:
    """Register the plugins with `tensorrt.plugin`; kernels are loaded when TensorRT asks for them."""
    for op in PLUGINS:
        register_leaf(trtp, op, "ttc.plugins.moe_experts.kernel", target)
