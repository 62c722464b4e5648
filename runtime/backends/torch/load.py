"""Bundle → torch tensors on a device, in the bundle's compute dtype."""

from typing import Any

import ml_dtypes
import numpy as np
import numpy.typing as npt

from ttc.bundle import Bundle
from ttc.errors import BackendError, InputError, MissingDependencyError
from ttc.runtime.backends.device import parse_device

try:
    import torch
except ImportError as error:
    raise MissingDependencyError(
        "backend 'torch' needs torch; install it with: pip install 'ttc[torch]'"
    ) from error

from ttc.runtime.backends.torch.run import TorchBackend

__all__ = ["as_tensor", "load"]


def load(bundle: Bundle, device: str | None, threads: int | None) -> TorchBackend:
    """Put both towers' weights on the device."""
    if threads is not None:
        raise InputError(
            "threads is for backend 'onnxruntime'; torch has one setting per process, torch.set_num_threads"
        )
    target = _device(device)
    weights = {name: as_tensor(bundle.read_weight(name)).to(target) for name in bundle.weights}
    return TorchBackend(bundle.config, weights, getattr(torch, bundle.compute_dtype), target)


def as_tensor(array: npt.NDArray[Any]) -> torch.Tensor:
    """A tensor of its own memory: the bundle's arrays may be read-only views of a file."""
    if array.dtype == ml_dtypes.bfloat16:
        return torch.from_numpy(array.view(np.uint16).copy()).view(torch.bfloat16)
    return torch.from_numpy(array.copy())


def _device(device: str | None) -> torch.device:
    if device is None:
        return torch.device("cuda" if torch.cuda.is_available() else "cpu")
    kind, index = parse_device(device)
    if kind == "cuda" and not torch.cuda.is_available():
        raise BackendError(
            f"device {device!r}: torch {torch.__version__} sees no CUDA device; use device 'cpu'"
        )
    return torch.device(kind, index) if kind == "cuda" else torch.device("cpu")
