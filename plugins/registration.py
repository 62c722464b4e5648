"""Registers all `ttc` plugins with TensorRT, once a process."""

from types import ModuleType

from ttc.errors import BackendError
from ttc.plugins.ops import DOMAIN
from ttc.plugins.table import LAUNCHED_OPS
from ttc.plugins.tensorrt_qdp import Target, register_primitive

__all__ = ["register_all"]


def register_all(trtp: ModuleType, target: Target) -> None:
    """Make TensorRT's parser and builder know every op that has a kernel, before a network is parsed.

    But for those that write into their inputs (`OpSpec.in_place`): a plugin's outputs are its own.

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
    for op in LAUNCHED_OPS:
        if not op.in_place:
            register_primitive(trtp, op, target)
