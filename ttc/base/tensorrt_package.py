"""Which TensorRT package is installed, found out without importing it."""

import importlib
import importlib.util
from importlib import metadata

from ttc.base.distribution import install
from ttc.base.names import BACKEND_PACKAGES, ENGINE_BACKENDS, ENGINE_VERSIONS
from ttc.errors import BackendError, InputError, MissingDependencyError

__all__ = ["backend_version", "find_backend"]


def find_backend(backend: str) -> None:
    """Raise unless the backend's package is installed, without importing it."""
    if backend not in ENGINE_BACKENDS:
        raise InputError(f"backend is {backend!r}; valid: {', '.join(ENGINE_BACKENDS)}")
    if importlib.util.find_spec(BACKEND_PACKAGES[backend]) is None:
        raise MissingDependencyError(
            f"backend {backend} needs the package {BACKEND_PACKAGES[backend]}, which is not installed; "
            f"install it with: {install(backend)}"
        )


def backend_version(backend: str) -> str:
    """Version of the installed package, read without importing it; `BackendError` where it is too old."""
    find_backend(backend)
    package = BACKEND_PACKAGES[backend]
    names = (package, *(f"{package}_cu{cuda}" for cuda in (13, 12)))
    for name in names:
        try:
            found = metadata.version(name)
        except metadata.PackageNotFoundError:
            continue
        if tuple(int(part) for part in found.split(".")[:2]) < ENGINE_VERSIONS[backend]:
            due = ".".join(map(str, ENGINE_VERSIONS[backend]))
            raise BackendError(
                f"{backend} {found} is installed, at least {due} is due; "
                f"upgrade with: {install(backend, options='-U')}"
            )
        return found
    return str(importlib.import_module(package).__version__)
