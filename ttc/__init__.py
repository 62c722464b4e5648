"""Two-tower block-diffusion language models: from a checkpoint to ONNX to tokens.

    import ttc

    ttc.export("checkpoint/", "model.bundle")
    with ttc.load("model.bundle") as engine:
        print(engine.generate("Question: ...").text)

The names in `__all__` are public. Importing `ttc` imports only the standard library: `export`, `load`
and the engine's types are imported when first used.
"""

from importlib import import_module
from typing import TYPE_CHECKING

from ttc.errors import (
    BackendError,
    BundleError,
    CapacityError,
    CheckpointError,
    DeviceMemoryError,
    DigestError,
    ExportError,
    InputError,
    MissingDependencyError,
    NumericsError,
    TtcError,
)

if TYPE_CHECKING:
    from ttc.exporter.build import BuildReport, build
    from ttc.exporter.export import export
    from ttc.runtime.engine import Engine, load
    from ttc.runtime.result import Event, Result, Stats

__version__ = "0.1.0"

__all__ = [
    "BackendError",
    "BuildReport",
    "BundleError",
    "CapacityError",
    "CheckpointError",
    "DeviceMemoryError",
    "DigestError",
    "Engine",
    "Event",
    "ExportError",
    "InputError",
    "MissingDependencyError",
    "NumericsError",
    "Result",
    "Stats",
    "TtcError",
    "__version__",
    "build",
    "export",
    "load",
]

_HOMES = {
    "BuildReport": "ttc.exporter.build",
    "Engine": "ttc.runtime.engine",
    "Event": "ttc.runtime.result",
    "Result": "ttc.runtime.result",
    "Stats": "ttc.runtime.result",
    "build": "ttc.exporter.build",
    "export": "ttc.exporter.export",
    "load": "ttc.runtime.engine",
}

if not TYPE_CHECKING:  # a type checker that saw this would accept every name

    def __getattr__(name: str) -> object:
        if name not in _HOMES:
            raise AttributeError(f"module 'ttc' has no attribute {name!r}")
        value = getattr(import_module(_HOMES[name]), name)
        globals()[name] = value
        return value


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})
