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
    "ENGINE_VERSIONS",
    "MODES",
    "PROVIDERS",
    "BackendName",
    "Mode",
    "ProviderName",
]


BackendName = Literal["onnxruntime", "torch", "tensorrt", "tensorrt-rtx"]


class _Backend(NamedTuple):
    """`package` is the Python package it needs; `engines_from`: it runs what `ttc build` made, with this
    version of the package (major, minor) or a later one.
    """

    name: BackendName
    package: str
    engines_from: tuple[int, int] | None = None


_BACKENDS: Final = (
    _Backend("onnxruntime", "onnxruntime"),
    _Backend("torch", "torch"),
    _Backend("tensorrt", "tensorrt", engines_from=(10, 15)),
    _Backend("tensorrt-rtx", "tensorrt_rtx", engines_from=(1, 7)),
)
BACKENDS: Final = tuple(backend.name for backend in _BACKENDS)
ENGINE_VERSIONS: Final[Mapping[str, tuple[int, int]]] = {
    backend.name: backend.engines_from for backend in _BACKENDS if backend.engines_from is not None
}
ENGINE_BACKENDS: Final = tuple(ENGINE_VERSIONS)
# Whole graphs, or graphs partitioned at the `ttc` ops (`ttc.formats.program`).
ENGINE_FORMS: Final = ("whole", "cut")
BACKEND_PACKAGES: Final[Mapping[str, str]] = {backend.name: backend.package for backend in _BACKENDS}

# Execution providers of ONNX Runtime.
ProviderName = Literal["cpu", "cuda", "tensorrt", "nv-tensorrt-rtx"]
PROVIDERS: Final[tuple[ProviderName, ...]] = get_args(ProviderName)

Mode = Literal["diffusion", "ar", "mock-ar", "lossless", "prompt-lookup"]
MODES: Final[tuple[Mode, ...]] = get_args(Mode)

COMPUTE_DTYPES: Final = ("float32", "float16", "bfloat16")
