"""What is refused before anything is computed: backends that cannot run here, a bundle too large."""

import math
import os
from collections.abc import Sequence
from importlib import import_module

from ttc.base.machine import physical_bytes
from ttc.base.names import BACKENDS, ENGINE_BACKENDS
from ttc.doctor.cuda_driver import examine_driver
from ttc.errors import BackendError, InputError
from ttc.model.bundle import Bundle
from ttc.runtime.interface.devices import parse_device

__all__ = ["check_backends", "check_memory", "check_names"]


def check_names(backends: Sequence[str] | None) -> None:
    """Raise `InputError` for no backend or an unknown one; None means all and is right."""
    if backends is None:
        return
    if not backends:
        raise InputError(f"no backend to verify; valid: {', '.join(BACKENDS)}")
    for name in backends:
        if name not in BACKENDS:
            raise InputError(f"unknown backend {name!r}; valid: {', '.join(BACKENDS)}")


def check_backends(
    backends: Sequence[str] | None,
    bundle: Bundle,
    device: str | None,
    engines: str | os.PathLike[str] | None,
    trust: str | os.PathLike[str] | None,
) -> None:
    """Raise what each backend would raise later for want of packages, engines or a GPU; no weight is read.

    None stands for all backends that can run here, which are not asked.

    Raises:
        InputError: the device is none.
        BundleError: no engines, or not this bundle's.
        BackendError: the backend cannot run here.
    """
    from ttc.runtime.gpu.cuda_driver import requirements
    from ttc.runtime.gpu.engine_files import open_engines

    kinds = [] if device is None else [parse_device(each)[0] for each in device.split(",")]
    for name in backends or ():
        import_module(f"ttc.runtime.backends.{name.replace('-', '_')}.load")
        if name in ENGINE_BACKENDS:
            if kinds and "cuda" not in kinds:
                raise InputError(f"device is {device!r}; backend {name!r} runs on cuda or cuda:N")
            open_engines(bundle, engines, trust, name)
            requirements(name)
        elif "cuda" in kinds and examine_driver() is None:
            raise BackendError(f"device {device!r}: no NVIDIA driver finds a GPU here; use device 'cpu'")


def check_memory(bundle: Bundle) -> None:
    """Raise `InputError` where the weights in float32, which the reference computes with, exceed this
    machine's memory. Systems that do not tell their memory are let through.
    """
    has = physical_bytes()
    parameters = sum(math.prod(entry.shape) for entry in bundle.weights.values())
    if has is not None and 4 * parameters > has:
        raise InputError(
            f"{bundle.path}: the reference needs {4 * parameters / 1e9:.1f} GB for {parameters:,} parameters "
            f"in float32, and this machine has {has / 1e9:.1f} GB of memory; verify on a machine with more, "
            "or compare single layers with Polygraphy (docs/polygraphy.md)"
        )
