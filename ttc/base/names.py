"""The names that users type and files hold: backends, modes, dtypes and forms, each listed only here.

Only the standard library is imported, so that `ttc --help` can show them at once.
"""

from collections.abc import Mapping
from typing import Final, Literal, NamedTuple, get_args

__all__ = [
    "BACKENDS",
    "BACKEND_PACKAGES",
    "COMPUTE_DTYPES",
    "ENGINE_BACKENDS",
    "ENGINE_FORMS",
    "MODES",
    "Mode",
]


class _Backend(NamedTuple):
    """`package` is the Python package it needs; `runs_engines`: it runs what `ttc build` made."""

    name: str
    package: str
    runs_engines: bool


_BACKENDS: Final = (
    _Backend("onnxruntime", "onnxruntime", runs_engines=False),
    _Backend("torch", "torch", runs_engines=False),
    _Backend("tensorrt", "tensorrt", runs_engines=True),
    _Backend("tensorrt-rtx", "tensorrt_rtx", runs_engines=True),
)
BACKENDS: Final = tuple(backend.name for backend in _BACKENDS)
ENGINE_BACKENDS: Final = tuple(backend.name for backend in _BACKENDS if backend.runs_engines)
# Whole graphs, or graphs partitioned at the `ttc` ops (`ttc.formats.program`).
ENGINE_FORMS: Final = ("whole", "cut")
BACKEND_PACKAGES: Final[Mapping[str, str]] = {backend.name: backend.package for backend in _BACKENDS}

Mode = Literal["diffusion", "ar", "mock-ar", "lossless", "prompt-lookup"]
MODES: Final[tuple[Mode, ...]] = get_args(Mode)

COMPUTE_DTYPES: Final = ("float32", "float16", "bfloat16")
