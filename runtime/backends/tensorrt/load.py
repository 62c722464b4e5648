"""Bundle and TensorRT engines → a backend. Has not run on a GPU yet."""

from ttc.bundle import Bundle
from ttc.runtime.backends.base import Backend
from ttc.runtime.backends.settings import LoadSettings
from ttc.runtime.gpu.load_engines import load_engines

__all__ = ["load"]


def load(bundle: Bundle, settings: LoadSettings) -> Backend:
    """The backend, its engines checked first."""
    return load_engines("tensorrt", bundle, settings)
