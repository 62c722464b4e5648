"""The TensorRT plugins of `DiffusionPredict` and `DiffusionCommit`."""

from types import ModuleType

from ttc.plugins.diffusion_step import DIFFUSION_COMMIT, DIFFUSION_PREDICT
from ttc.plugins.tensorrt_qdp import Target, register_leaf

__all__ = ["PLUGINS", "register"]

PLUGINS = (DIFFUSION_COMMIT, DIFFUSION_PREDICT)


def register(trtp: ModuleType, target: Target) -> None:
    """Register the plugins with `tensorrt.plugin`; kernels are loaded when TensorRT asks for them."""
    for op in PLUGINS:
        register_leaf(trtp, op, "ttc.plugins.diffusion_step.kernel", target)
