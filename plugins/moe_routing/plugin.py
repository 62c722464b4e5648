"""The TensorRT plugin of `MoeRouting`."""

from types import ModuleType

from ttc.plugins.moe_routing import MOE_ROUTING
from ttc.plugins.tensorrt_qdp import Target, register_leaf

__all__ = ["PLUGINS", "register"]

PLUGINS = (MOE_ROUTING,)


def register(trtp: ModuleType, target: Target) -> None:
    """Register the plugin with `tensorrt.plugin`; kernels are loaded when TensorRT asks for them."""
    for op in PLUGINS:
        register_leaf(trtp, op, "ttc.plugins.moe_routing.kernel", target)
