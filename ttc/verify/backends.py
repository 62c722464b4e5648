"""The two sides of a comparison: the reference, and a backend to hold against it, each with its layers in
sight.
"""

import os
import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from importlib.metadata import PackageNotFoundError, version
from typing import TYPE_CHECKING, Any

import numpy as np

from ttc.base.distribution import install
from ttc.errors import MissingDependencyError
from ttc.model.bundle import Bundle
from ttc.runtime.backends import load_backend
from ttc.runtime.interface.backend import Backend
from ttc.runtime.interface.settings import LoadSettings
from ttc.verify.observe import Floats

if TYPE_CHECKING:
    import torch

__all__ = ["Candidate", "library_version", "open_candidate", "open_reference", "tap_layers"]


@dataclass(slots=True)
class Candidate:
    """A backend that is observed.

    Attributes:
        backend: it.
        computes_in: the dtype of its arithmetic.
        version: of the library that computes.
        device: where it runs.
        shows_layers: whether `residuals` is filled by its calls.
    """

    backend: Backend
    computes_in: str
    version: str
    device: str
    shows_layers: bool
    residuals: dict[int, Floats] = field(default_factory=dict)


def open_reference(bundle: Bundle, dtype: str) -> Candidate:
    """Return the towers in plain torch on the CPU, computing in `dtype` with the bundle's weights.

    The time embedding is rounded as the bundle's compute dtype rounds it, whatever `dtype` is.
    """
    try:
        import torch
    except ImportError:
        raise MissingDependencyError(
            f"verifying needs torch for the reference; install it with: {install('torch')}"
        ) from None
    from ttc.runtime.backends.torch.run import TorchBackend

    target, own = getattr(torch, dtype), getattr(torch, bundle.compute_dtype)
    routers = {name for name, entry in bundle.weights.items() if entry.dtype == "float32"}
    weights = {
        name: _tensor(bundle, name, dtype).to(torch.float32 if name in routers else target)
        for name in bundle.decoded_weights
    }
    backend = TorchBackend(bundle.config, weights, target, torch.device("cpu"), time_dtype=own)
    return _recorded(backend, dtype)


def open_candidate(
    name: str,
    bundle: Bundle,
    device: str | None,
    layers: bool,
    threads: int | None = None,
    engines: str | os.PathLike[str] | None = None,
    trust: str | os.PathLike[str] | None = None,
    engines_sha256: str | None = None,
) -> Candidate:
    """Return a backend of the bundle by name; with `layers` its residual streams are kept where it can show
    them.
    """
    if name == "onnxruntime":
        return _onnxruntime(bundle, device, threads, layers)
    settings = LoadSettings(device, None, engines, trust, engines_sha256=engines_sha256)
    backend = load_backend(name, bundle, settings)
    if layers and hasattr(backend, "record"):
        return _recorded(backend, bundle.compute_dtype)
    return Candidate(
        backend, bundle.compute_dtype, library_version(name), backend.device_name, shows_layers=False
    )


def _recorded(backend: Any, dtype: str) -> Candidate:
    """Return a torch backend with its residual streams recorded."""
    watched = Candidate(backend, dtype, library_version("torch"), backend.device_name, shows_layers=True)

    def record(layer: int, x: "torch.Tensor") -> None:
        watched.residuals[layer] = x.float().cpu().numpy()

    backend.record = record
    return watched


def _onnxruntime(bundle: Bundle, device: str | None, threads: int | None, layers: bool) -> Candidate:
    """ONNX Runtime; with `layers` every layer's x is an output of the towers' graphs, in memory only."""
    import onnx_ir as ir

    from ttc.runtime.backends.onnxruntime.load import load

    residuals: dict[int, Floats] = {}
    taps: dict[str, dict[str, int]] = {}

    def record(outputs: "Mapping[str, Floats]") -> None:
        residuals.clear()
        layers_of = {name: layer for tapped in taps.values() for name, layer in tapped.items()}
        residuals.update({layers_of[name]: array.astype(np.float32) for name, array in outputs.items()})

    def prepare(role: str, model: ir.Model, _: Any) -> None:
        if role in ("context", "denoiser") and layers:
            taps[role] = tap_layers(model)

    backend = load(bundle, LoadSettings(device, threads), prepare=prepare)
    backend.watched, backend.on_watched = taps, record
    return Candidate(
        backend, backend.computes_in, library_version("onnxruntime"), backend.device_name, layers, residuals
    )


def tap_layers(model: Any) -> dict[str, int]:
    """Make every layer's x an output of a tower's graph; output name → layer."""
    layer_output = re.compile(r"layers\.(\d+)\.\w+/x")
    taps = {}
    for node in model.graph:
        for value in node.outputs:
            match = layer_output.fullmatch(value.name or "")
            if match:
                taps[value.name] = int(match[1])
                if not value.is_graph_output():
                    model.graph.outputs.append(value)
    return taps


def library_version(name: str) -> str:
    """Return the library that a backend computes with, and its version."""
    for distribution in (name, f"{name}-gpu", name.replace("-", "_")):
        try:
            return f"{name} {version(distribution)}"
        except PackageNotFoundError:
            continue
    return name


def _tensor(bundle: Bundle, name: str, dtype: str) -> "torch.Tensor":
    from ttc.runtime.backends.torch.load import as_tensor

    return as_tensor(bundle.read_decoded(name, dtype))
