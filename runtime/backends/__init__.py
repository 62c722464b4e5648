"""Backends by name. Each is a folder with `load.py` (bundle → backend) and `run.py` (the backend); nothing is
imported until asked.
"""

from importlib import import_module
from typing import Protocol, cast

import numpy as np

from ttc.bundle import Bundle
from ttc.errors import InputError, NumericsError
from ttc.runtime.backends.base import Backend

__all__ = ["BACKENDS", "load_backend"]

BACKENDS = ("onnxruntime", "torch")


class _Loader(Protocol):
    def load(self, bundle: Bundle, device: str | None, threads: int | None) -> Backend: ...


def load_backend(name: str, bundle: Bundle, device: str | None, threads: int | None) -> Backend:
    """The backend of that name over a bundle.

    device: "cpu", "cuda" or "cuda:N"; None for the best there is.  threads: CPU threads per call; None for
        the
    backend's own choice.
    """
    if name not in BACKENDS:
        raise InputError(f"unknown backend {name!r}; valid: {', '.join(BACKENDS)}")
    _check_routers(bundle)
    loader = cast(_Loader, import_module(f"ttc.runtime.backends.{name}.load"))
    return loader.load(bundle, device, threads)


def _check_routers(bundle: Bundle) -> None:
    """A router's correction bias takes part in choices only: NaN there would change the text unseen."""
    for name in bundle.weights:
        if name.endswith(".e_score_correction_bias") and not np.isfinite(bundle.read_weight(name)).all():
            raise NumericsError(f"weight {name} holds NaN or infinity; check the checkpoint it came from")
