"""CUDA tools that run without a GPU: NVRTC from its wheel, ptxas from Triton's."""

import ctypes
import importlib.metadata
import importlib.util
from pathlib import Path

import pytest


def load_nvrtc() -> None:
    """Load NVRTC from its wheel, wherever on the path that lies; skip the test where it is not installed."""
    pytest.importorskip("cuda.bindings", reason="cuda-bindings is not installed")
    try:
        files = importlib.metadata.files("nvidia-cuda-nvrtc") or []
    except importlib.metadata.PackageNotFoundError:
        pytest.skip("nvidia-cuda-nvrtc is not installed")
    for file in files:
        if file.name.startswith("libnvrtc.so"):
            ctypes.CDLL(str(file.locate()), mode=ctypes.RTLD_GLOBAL)


def ptxas(*, blackwell: bool) -> Path:
    """The assembler that Triton brings along."""
    spec = importlib.util.find_spec("triton")
    if spec is None or spec.origin is None:
        pytest.skip("triton is not installed, and with it ptxas")
    name = "ptxas-blackwell" if blackwell else "ptxas"
    return Path(spec.origin).parent / "backends" / "nvidia" / "bin" / name
