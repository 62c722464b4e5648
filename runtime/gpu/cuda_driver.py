"""Whether there is an NVIDIA driver and a GPU, and what the driver can do."""

from typing import Any

from ttc.base.distribution import install
from ttc.errors import BackendError, MissingDependencyError

__all__ = ["loop_problem", "requirements", "status_name"]

# cuDriverGetVersion's numbers: 1000 · major + 10 · minor.
WHILE_NODES = 12040


def requirements(backend: str) -> Any:
    """Return the module `cuda.core`, once there is a driver and a GPU.

    Raises:
        MissingDependencyError: cuda.core is not installed.
        BackendError: there is no NVIDIA driver, or no GPU.
    """
    try:
        import cuda.core
        from cuda.bindings import driver
    except ImportError:
        raise MissingDependencyError(
            f"backend {backend!r} needs cuda-core, which is not installed; install it with: {install('gpu')}"
        ) from None
    try:
        (status,) = driver.cuInit(0)
        count = driver.cuDeviceGetCount()[1] if int(status) == 0 else 0
    except RuntimeError as fault:  # the driver's library is looked for at the first call
        raise BackendError(
            f"backend {backend!r} needs an NVIDIA GPU and its driver, and there is no driver here "
            f"({str(fault).splitlines()[0]}); install one, or use backend 'onnxruntime'"
        ) from None
    if not count:
        raise BackendError(
            f"backend {backend!r} needs an NVIDIA GPU, and the driver shows none ({status_name(status)}); "
            "check nvidia-smi and CUDA_VISIBLE_DEVICES, or use backend 'onnxruntime'"
        )
    return cuda.core


def loop_problem(driver_version: int) -> str | None:
    """Why this driver (1000 · major + 10 · minor) cannot run a WHILE node; None where it can."""
    if driver_version >= WHILE_NODES:
        return None
    found = f"{driver_version // 1000}.{driver_version % 1000 // 10}"
    return f"the driver is for CUDA {found}, and loops in graphs need 12.4"


def status_name(status: Any) -> str:
    """Return the name of a status of the bindings."""
    return str(getattr(status, "name", status))
