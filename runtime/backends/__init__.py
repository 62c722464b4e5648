"""Backends by name. Each is a folder with `load.py` (bundle → backend) and `run.py` (the backend); nothing is
imported until asked.
"""

from importlib import import_module
from typing import Protocol, cast

import numpy as np

from ttc.base.names import BACKENDS
from ttc.errors import InputError, NumericsError
from ttc.model.bundle import Bundle
from ttc.runtime.interface.backend import Backend
from ttc.runtime.interface.settings import LoadSettings

__all__ = ["load_backend"]


class _Loader(Protocol):
    def load(self, bundle: Bundle, settings: LoadSettings) -> Backend: ...


def load_backend(name: str, bundle: Bundle, settings: LoadSettings) -> Backend:
    """The backend of that name over a bundle."""
    if name not in BACKENDS:
        raise InputError(f"unknown backend {name!r}; valid: {', '.join(BACKENDS)}")
    _check_routers(bundle)
    loader = cast(_Loader, import_module(f"ttc.runtime.backends.{name.replace('-', '_')}.load"))
    return loader.load(bundle, settings)


def _check_routers(bundle: Bundle) -> None:
    """A router's correction bias takes part in choices only: NaN there would change the text unseen."""
    for name in bundle.weights:
        if name.endswith(".e_score_correction_bias") and not np.isfinite(bundle.read_weight(name)).all():
            raise NumericsError(f"weight {name} holds NaN or infinity; check the checkpoint it came from")
