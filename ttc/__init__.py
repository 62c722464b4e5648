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
    from ttc.exporter.engines.build import build
    from ttc.exporter.engines.build_report import BuildReport
    from ttc.exporter.onnx.export import export
    from ttc.runtime.decoding.options import GenerationOptions
    from ttc.runtime.decoding.result import Event, Result, Stats
    from ttc.runtime.engine import Engine, load

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
    "GenerationOptions",
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
    "BuildReport": "ttc.exporter.engines.build_report",
    "Engine": "ttc.runtime.engine",
    "Event": "ttc.runtime.decoding.result",
    "GenerationOptions": "ttc.runtime.decoding.options",
    "Result": "ttc.runtime.decoding.result",
    "Stats": "ttc.runtime.decoding.result",
    "build": "ttc.exporter.engines.build",
    "export": "ttc.exporter.onnx.export",
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
