"""Bundle → torch tensors on a device, in the bundle's compute dtype.

On the CPU the towers run eagerly, and quantised experts are decoded while they are loaded. On CUDA they run
over fixed addresses, with the Triton kernels and CUDA graphs, as far as the packages are there; what is not
is noted. The CUDA half has not run on a GPU yet.
"""

import importlib.util
import logging
import os
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, TypeVar

import ml_dtypes
import numpy as np
import numpy.typing as npt

from ttc.base.distribution import install
from ttc.errors import BackendError, InputError, MissingDependencyError
from ttc.model.bundle import Bundle
from ttc.runtime.interface.devices import parse_device, parse_gpus

try:
    import torch
except ImportError as error:
    raise MissingDependencyError(
        f"backend 'torch' needs torch; install it with: {install('torch')}"
    ) from error

from ttc.model.config import ModelConfig
from ttc.model.mixers import RunOp
from ttc.model.weights import CONTEXT, DENOISER, expert_stacks, joined_projections
from ttc.plugins.naive import run_naive
from ttc.plugins.weight_tiles import in_tiles
from ttc.runtime.backends.torch.executor import TorchExecutor, view_of
from ttc.runtime.backends.torch.run import TorchBackend
from ttc.runtime.gpu.backend import DeviceBackend
from ttc.runtime.gpu.cuda import CudaDevice
from ttc.runtime.gpu.device import Scope
from ttc.runtime.gpu.memory import Gpu, need_of, plan_memory
from ttc.runtime.gpu.pooled_backend import PooledBackend
from ttc.runtime.gpu.tower_parallel import load_tower_parallel
from ttc.runtime.gpu.weights import upload_weights
from ttc.runtime.interface.backend import Backend
from ttc.runtime.interface.settings import LoadSettings

__all__ = ["CudaFeatures", "as_tensor", "cuda_features", "lay_for_kernels", "load", "on_cuda"]

logger = logging.getLogger(__name__)
B = TypeVar("B", DeviceBackend, PooledBackend)
# What a plan reckons with when nobody has asked for anything yet.
_USUAL_CAPACITY, _USUAL_BLOCK = 2048, 16
# The process in which torch first computed here. Its threads do not survive a fork, and it waits for them.
_first_process: int | None = None


def load(bundle: Bundle, settings: LoadSettings) -> Backend:
    """Put both towers' weights on the device.

    Raises:
        BackendError: torch was used before this process was forked from another.
    """
    global _first_process
    if _first_process not in (None, os.getpid()):
        raise BackendError(
            "backend 'torch' was loaded before this process was forked, and torch's threads did not come "
            "along, so it would wait for them for ever: start processes with the method spawn"
        )
    _first_process = os.getpid()
    settings.refuse_engines("torch")
    settings.refuse_provider("torch")
    settings.refuse_sparse_experts("backend 'torch'", "does so in any case; leave it out")
    if settings.threads is not None:
        raise InputError(
            "threads is for backend 'onnxruntime'; torch has one setting per process, torch.set_num_threads"
        )
    if settings.device is not None and "," in settings.device:
        return _on_two_gpus(bundle, settings)
    target = _device(settings.device)
    if target.type == "cuda":
        features = cuda_features(_has("triton"), _has("cuda.core"))
        for note in features.notes:
            logger.warning(note)
        if features.resident:
            towers = CONTEXT, DENOISER
            return on_cuda(bundle, target.index or 0, features, settings, towers, PooledBackend)
        settings.refuse_cuda_graphs("backend 'torch' without cuda-core")
    else:
        settings.refuse_cuda_graphs("backend 'torch' on the CPU")
    weights = {name: as_tensor(bundle.read_decoded(name)).to(target) for name in bundle.decoded_weights}
    return TorchBackend(bundle.config, weights, getattr(torch, bundle.compute_dtype), target)


@dataclass(frozen=True, slots=True)
class CudaFeatures:
    """How the towers run on CUDA.

    Attributes:
        kernels: with the Triton kernels in place of the naive ops.
        resident: over fixed addresses, as CUDA graphs need it.
        capture_problem: why there can be no graphs; None where there can.
        notes: what is missing, one sentence each.
    """

    kernels: bool
    resident: bool
    capture_problem: str | None
    notes: tuple[str, ...]


def cuda_features(has_triton: bool, has_cuda_core: bool) -> CudaFeatures:
    """Return what can be done with the packages that are installed."""
    notes = []
    problem = None
    if not has_triton:
        problem = "the naive ops wait for the GPU, and triton is not installed"
        notes.append(
            "the naive ops compute in place of the Triton kernels, because triton is not installed; "
            f"install it with: {install('kernels')}"
        )
    if not has_cuda_core:
        notes.append(
            "no CUDA graphs and no static buffers, because cuda-core is not installed; "
            f"install it with: {install('gpu')}"
        )
    return CudaFeatures(has_triton, has_cuda_core, problem, tuple(notes))


def _on_two_gpus(bundle: Bundle, settings: LoadSettings) -> Backend:
    """The context tower on the first GPU, the denoiser on the second."""
    assert settings.device is not None
    indices = parse_gpus(settings.device, "torch")
    _device(f"cuda:{indices[0]}")
    features = cuda_features(_has("triton"), _has("cuda.core"))
    if not features.resident:
        raise BackendError(f"device {settings.device!r}: two GPUs need cuda-core; {install('gpu')}")
    return load_tower_parallel(
        lambda i: on_cuda(bundle, indices[i], features, settings, ((CONTEXT, DENOISER)[i],), DeviceBackend)
    )


def on_cuda(
    bundle: Bundle,
    index: int,
    features: CudaFeatures,
    settings: LoadSettings,
    towers: Sequence[str],
    backend: type[B],
) -> B:
    """Return a backend over the weights of these towers on a GPU, with what `features` has.

    Raises:
        DeviceMemoryError: they do not fit.
        BundleError: a weight cannot be read.
    """
    run_op: RunOp = run_naive
    if features.kernels:
        from ttc.plugins.triton import run_triton

        run_op = run_triton
    # A pool, unless another GPU needs to see what changed.
    pooled = issubclass(backend, PooledBackend)
    device = CudaDevice(index, "torch")
    scope = Scope(device)
    try:
        names = list(bundle.weights_for(*towers))
        capacity = min(_USUAL_CAPACITY, bundle.config.max_position_embeddings)
        need = need_of(bundle, names, batch=1, capacity=capacity, block=_USUAL_BLOCK, in_place=pooled)
        plan_memory(need, [Gpu(device.name, device.free_bytes()[0])]).check()
        joined = {k: v for tower in towers for k, v in joined_projections(bundle.config, tower).items()}
        weights = upload_weights(bundle, names, scope, settings.progress, together=joined)
        tensors = {name: view_of(device, array) for name, array in weights.items()}
        if features.kernels:
            lay_for_kernels(bundle.config, towers, tensors)
            torch.cuda.synchronize(index)  # the towers compute on another stream
        executor = TorchExecutor(
            bundle.config,
            device,
            tensors,
            bundle.compute_dtype,
            run_op,
            features.capture_problem,
            features.notes,
            scope,
            towers,
            pooled=pooled,
            takes_out=features.kernels,
        )
        return backend(bundle.config, device, executor, settings.graph_level)
    except BaseException:
        scope.close()
        device.close()
        raise


def lay_for_kernels(config: ModelConfig, towers: Sequence[str], weights: dict[str, torch.Tensor]) -> None:
    """Lay these towers' weights, within their memory, as the kernels read them best; naive ops cannot."""
    for name in (name for tower in towers for name in expert_stacks(config, tower)):
        weights[name] = in_tiles(weights[name])


def _has(module: str) -> bool:
    return importlib.util.find_spec(module.partition(".")[0]) is not None and (
        importlib.util.find_spec(module) is not None
    )


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
