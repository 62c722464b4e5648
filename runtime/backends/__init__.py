"""Backends by name. The table of names is in `ttc.base.names`; each backend is a folder here, named as the
backend with `_` for `-`, whose `load.py` has `load(bundle, settings)`. Nothing is imported until asked for.
"""

from importlib import import_module
from typing import Protocol, cast

import numpy as np

from ttc.base.names import BACKENDS
from ttc.base.suggestion import suggestion
from ttc.errors import InputError, NumericsError
from ttc.model.bundle import Bundle
from ttc.runtime.interface.backend import Backend
from ttc.runtime.interface.settings import LoadSettings

__all__ = ["load_backend"]


class _Loader(Protocol):
    def load(self, bundle: Bundle, settings: LoadSettings) -> Backend: ...


def load_backend(name: str, bundle: Bundle, settings: LoadSettings) -> Backend:
    """Return the backend of that name over a bundle.

    Raises:
        InputError: there is none of that name.
        NumericsError: the bundle holds weights that are NaN or infinite where nobody would see it.
    """
    if name not in BACKENDS:
        raise InputError(
            f"unknown backend {name!r}{suggestion(str(name), BACKENDS)}; valid: {', '.join(BACKENDS)}"
        )
    _check_routers(bundle)
    loader = cast(_Loader, import_module(f"ttc.runtime.backends.{name.replace('-', '_')}.load"))
    return loader.load(bundle, settings)


def _check_routers(bundle: Bundle) -> None:
    """Refuse NaN in a router's correction bias: it only takes part in choices, and would change the text
    unseen.
    """
    for name in bundle.weights:
        if name.endswith(".e_score_correction_bias") and not np.isfinite(bundle.read_weight(name)).all():
            raise NumericsError(f"weight {name} holds NaN or infinity; check the checkpoint it came from")
