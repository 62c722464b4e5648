"""Bundle and engines → a backend: what TensorRT and TensorRT-RTX share.

First everything that needs no GPU (are the engines what they should be), then whether there is a GPU and the
memory for it, and only then is the first engine touched.
"""

from ttc.bundle import Bundle
from ttc.errors import InputError
from ttc.runtime.backends.base import Backend
from ttc.runtime.backends.device import parse_device
from ttc.runtime.backends.settings import LoadSettings
from ttc.runtime.gpu.backend import DeviceBackend
from ttc.runtime.gpu.cuda import CudaDevice
from ttc.runtime.gpu.device import Device, Scope
from ttc.runtime.gpu.engine_executor import EngineExecutor, weight_names
from ttc.runtime.gpu.engine_files import Engines, open_engines
from ttc.runtime.gpu.memory import Gpu, Need, plan_memory, row_bytes
from ttc.runtime.gpu.ptx_ops import PtxOps
from ttc.runtime.gpu.tensorrt import EngineSteps, Runtime
from ttc.runtime.gpu.watch import Watch
from ttc.runtime.gpu.weights import upload_weights, weight_bytes

__all__ = ["load_engines"]


def load_engines(backend: str, bundle: Bundle, settings: LoadSettings, watch: Watch | None = None) -> Backend:
    """The backend "tensorrt" or "tensorrt-rtx" over a bundle. watch: a profiler's.

    Raises:
        BundleError, DigestError, BackendError: as `open_engines`, before anything else.
        InputError: settings that mean nothing here.
        BackendError: no GPU, or the engines are refused.  DeviceMemoryError: they do not fit.
    """
    if settings.threads is not None:
        raise InputError(f"threads is for backend 'onnxruntime'; backend {backend!r} has no such setting")
    kind, index = parse_device("cuda" if settings.device is None else settings.device)
    if kind != "cuda":
        raise InputError(f"device is {settings.device!r}; backend {backend!r} runs on cuda or cuda:N")
    engines = open_engines(bundle, settings.engines, settings.trust, backend)
    names = weight_names(engines)
    device: Device = CudaDevice(index, backend)
    if watch is not None:
        device = watch.device(device)
    scope = Scope(device)
    try:
        engine_bytes = sum(file.size_bytes for file in engines.folder.manifest.files.values())
        plan_memory(
            _need(bundle, engines, names, engine_bytes), [Gpu(device.name, device.free_bytes()[0])]
        ).check()
        runtime = Runtime(backend)
        records = engines.folder.manifest.engines
        loaded = {name: runtime.deserialize(name, engines.folder.engine(name)) for name in records}
        weights = upload_weights(bundle, names, scope, settings.progress)
        executor = EngineExecutor(
            backend,
            engines,
            EngineSteps(runtime, device, records, loaded, watch),
            PtxOps(device, bundle.compute_dtype),
            weights,
            scope,
            watch,
        )
        return DeviceBackend(bundle.config, device, executor, settings.graph_level)
    except BaseException:
        scope.close()
        device.close()
        raise


def _need(bundle: Bundle, engines: Engines, names: list[str], engine_bytes: int) -> Need:
    """Memory for the smallest generation that the engines allow."""
    limits = engines.limits
    towers: dict[str, list[str]] = {}
    for name in names:
        towers.setdefault(bundle.weights[name].graphs[0], []).append(name)
    batch, capacity = limits.batch[0], limits.capacity[0]
    row = row_bytes(bundle.config, bundle.compute_dtype, capacity, limits.block[1], doubled=True)
    weights = {role: weight_bytes(bundle, group) for role, group in towers.items()}
    return Need(weights, row, engine_bytes, batch, capacity)
