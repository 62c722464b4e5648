"""Engines of a folder, each run by itself on a GPU and timed; whatever network they are.

Inputs are zeros of the sizes of the build profile, so that nothing but the engine is needed. Not run on a GPU
yet; the tests run it on a fake device and a fake TensorRT.
"""

import os
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from math import ceil

from ttc.base.suggestion import suggestion
from ttc.base.tensorrt_package import backend_version
from ttc.errors import InputError
from ttc.formats.engines import EngineFolder, EngineRecord
from ttc.formats.strictjson import quoted
from ttc.runtime.gpu.closing import close_all
from ttc.runtime.gpu.cuda import CudaDevice
from ttc.runtime.gpu.device import Device, Scope
from ttc.runtime.gpu.tensorrt import EngineBinder, Runtime
from ttc.runtime.interface.devices import parse_gpus

__all__ = ["SIZES", "EngineTimes", "time_engines"]

# Which sizes of the build profile.
SIZES = ("min", "opt", "max")


@dataclass(frozen=True, slots=True)
class EngineTimes:
    """Times of one engine.

    Attributes:
        name: of the engine.
        inputs: name → shape.
        seconds: of every run, between two events on the GPU's stream, ascending.
    """

    name: str
    inputs: Mapping[str, tuple[int, ...]]
    seconds: tuple[float, ...]

    def percentile(self, share: float) -> float:
        """Return the time that this share of the runs did not exceed (nearest rank)."""
        return self.seconds[max(0, ceil(share * len(self.seconds)) - 1)]


def time_engines(
    path: str | os.PathLike[str],
    names: Sequence[str] = (),
    *,
    sizes: str = "opt",
    iterations: int = 100,
    warm_up: int = 10,
    device: str | None = None,
    trust: str | os.PathLike[str] | None = None,
    progress: Callable[[str], None] | None = None,
) -> list[EngineTimes]:
    """Run engines of a folder that `ttc build` made, and time them.

    Args:
        path: the folder; its digests are checked first, as before any run.
        names: of the engines; empty for all.
        sizes: one of `SIZES`.
        iterations: timed runs of each.
        warm_up: runs before them.
        device: "cuda" or "cuda:N"; None for the first.
        trust: PEM file of the public key that must have signed the engines.
        progress: called with a line before each engine runs.

    Raises:
        BundleError: no engines, or damaged; `DigestError` where a file was changed.
        InputError: there is no engine of a name.
        BackendError: of another version, or no GPU; `DeviceMemoryError` where it is too small.
    """
    folder = EngineFolder.open(path, trust)
    manifest = folder.manifest
    for name in names:
        if name not in manifest.engines:
            raise InputError(
                f"{folder.path}: no engine {quoted(name)}{suggestion(name, manifest.engines)}; "
                f"it has: {', '.join(manifest.engines)}"
            )
    folder.check_version(manifest.backend, backend_version(manifest.backend))
    gpus = parse_gpus("cuda" if device is None else device, manifest.backend)
    if len(gpus) != 1:
        raise InputError(f"device is {quoted(device)}; valid: cuda or cuda:N, engines are timed on one GPU")
    gpu: Device = CudaDevice(gpus[0], manifest.backend)
    try:
        gpu.activate()
        runtime = Runtime(manifest.backend)
        found = []
        for name in names or manifest.engines:
            if progress is not None:
                progress(f"running {name}")
            record = manifest.engines[name]
            found.append(_time(gpu, runtime, folder, name, record, sizes, iterations, warm_up))
        return found
    finally:
        gpu.close()


def _time(
    device: Device,
    runtime: Runtime,
    folder: EngineFolder,
    name: str,
    record: EngineRecord,
    sizes: str,
    iterations: int,
    warm_up: int,
) -> EngineTimes:
    """Time one engine; what it needs on the GPU is given back."""
    scope = Scope(device)
    binder = EngineBinder(
        runtime, device, {name: record}, {name: runtime.deserialize(name, folder.engine(name))}
    )
    try:
        shapes = {tensor.name: getattr(tensor, sizes) for tensor in record.inputs}
        tensors = {tensor.name: scope.array(tensor.dtype, shapes[tensor.name]) for tensor in record.inputs}
        for array in tensors.values():
            device.fill(array, 0)
        # Outputs have room for their largest; how much is written follows from the inputs.
        tensors |= {tensor.name: scope.array(tensor.dtype, tensor.max) for tensor in record.outputs}
        run = binder.bind(scope, name, tensors)
        for _ in range(warm_up):
            run()
        device.wait()
        return EngineTimes(name, shapes, tuple(sorted(device.timed(run) for _ in range(iterations))))
    finally:
        close_all([binder.close, scope.close])
