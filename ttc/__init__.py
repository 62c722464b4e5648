"""Two-tower block-diffusion language models: from a checkpoint to ONNX to tokens.

    import ttc

    ttc.export("checkpoint/", "model.bundle")
    with ttc.load("model.bundle") as engine:
        print(engine.generate("Question: ...").text)

The names in `__all__` are public. Importing `ttc` imports only the standard library: `export`, `load`
and the engine's types are imported when first used.

One thing is set for the process and what it starts: `ORT_DISABLE_TELEMETRY=1`, unless the variable is set
already. ONNX Runtime 1.32 reads it while it is imported; without it, it writes about this machine to
`~/.cache/Microsoft` and tries to send that. `docs/trust.md` says what else is written where.
"""

import os
from importlib import import_module
from typing import TYPE_CHECKING

from ttc.errors import (
    BackendError,
    BundleError,
    CapacityError,
    CheckpointError,
    DeadlineExceeded,
    DeviceMemoryError,
    DigestError,
    EngineDead,
    ExportError,
    InputError,
    MissingDependencyError,
    NumericsError,
    QueueFull,
    TtcError,
)

if TYPE_CHECKING:
    from ttc.exporter.engines.build import build
    from ttc.exporter.engines.build_report import BuildReport
    from ttc.exporter.onnx.export import export
    from ttc.runtime.async_engine import AsyncEngine
    from ttc.runtime.caller import Update
    from ttc.runtime.decoding.options import GenerationOptions
    from ttc.runtime.decoding.request import Cancel, Request
    from ttc.runtime.decoding.result import Event, Result, Stats
    from ttc.runtime.engine import Engine
    from ttc.runtime.load import load

# Before anything of ours can import onnxruntime.
os.environ.setdefault("ORT_DISABLE_TELEMETRY", "1")

__version__ = "0.2.0"

__all__ = [
    "AsyncEngine",
    "BackendError",
    "BuildReport",
    "BundleError",
    "Cancel",
    "CapacityError",
    "CheckpointError",
    "DeadlineExceeded",
    "DeviceMemoryError",
    "DigestError",
    "Engine",
    "EngineDead",
    "Event",
    "ExportError",
    "GenerationOptions",
    "InputError",
    "MissingDependencyError",
    "NumericsError",
    "QueueFull",
    "Request",
    "Result",
    "Stats",
    "TtcError",
    "Update",
    "__version__",
    "build",
    "export",
    "load",
]

_HOMES = {
    "AsyncEngine": "ttc.runtime.async_engine",
    "BuildReport": "ttc.exporter.engines.build_report",
    "Cancel": "ttc.runtime.decoding.request",
    "Engine": "ttc.runtime.engine",
    "Event": "ttc.runtime.decoding.result",
    "GenerationOptions": "ttc.runtime.decoding.options",
    "Request": "ttc.runtime.decoding.request",
    "Result": "ttc.runtime.decoding.result",
    "Stats": "ttc.runtime.decoding.result",
    "Update": "ttc.runtime.caller",
    "build": "ttc.exporter.engines.build",
    "export": "ttc.exporter.onnx.export",
    "load": "ttc.runtime.load",
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
