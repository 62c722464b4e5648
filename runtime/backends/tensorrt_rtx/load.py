"""Bundle and TensorRT-RTX engines → a backend. Has not run on a GPU yet."""

from ttc.model.bundle import Bundle
from ttc.runtime.gpu.load_engines import load_engines
from ttc.runtime.interface.backend import Backend
from ttc.runtime.interface.settings import LoadSettings

__all__ = ["load"]


def load(bundle: Bundle, settings: LoadSettings) -> Backend:
    """The backend, its engines checked first."""
    return load_engines("tensorrt-rtx", bundle, settings)
