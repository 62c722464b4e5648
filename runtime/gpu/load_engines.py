"""Bundle and engines → a backend: what TensorRT and TensorRT-RTX share.

First everything that needs no GPU (are the engines what they should be), then whether there is a GPU and the
memory for it, and only then is the first engine touched.
"""

from collections.abc import Iterable, Sequence

from ttc.errors import InputError
from ttc.model.bundle import Bundle
from ttc.model.weights import CONTEXT, DENOISER, TOWER_GRAPHS
from ttc.runtime.gpu.backend import DeviceBackend
from ttc.runtime.gpu.closing import close_all
from ttc.runtime.gpu.cuda import CudaDevice
from ttc.runtime.gpu.device import Device, Scope
from ttc.runtime.gpu.engine_executor import EngineExecutor, weight_names
from ttc.runtime.gpu.engine_files import Engines, open_engines
from ttc.runtime.gpu.kernel_files import KernelFile
from ttc.runtime.gpu.memory import Gpu, need_of, plan_memory
from ttc.runtime.gpu.profiler import Profiler
from ttc.runtime.gpu.ptx_ops import PtxOps
from ttc.runtime.gpu.tensorrt import EngineBinder, Runtime
from ttc.runtime.gpu.tower_parallel import load_tower_parallel
from ttc.runtime.gpu.weights import upload_weights
from ttc.runtime.interface.backend import Backend
from ttc.runtime.interface.devices import parse_gpus
from ttc.runtime.interface.settings import LoadSettings

__all__ = ["load_engines"]


def load_engines(
    backend: str, bundle: Bundle, settings: LoadSettings, profiler: Profiler | None = None
) -> Backend:
    """Return an engine backend over a bundle, on one GPU or with a tower on each of two.

    Args:
        backend: "tensorrt" or "tensorrt-rtx".
        profiler: sees what engines and kernels put on the stream.

    Raises:
        BundleError, DigestError, BackendError: as `open_engines`, before anything else.
        InputError: settings that mean nothing here.
        BackendError: no GPU, or the engines are refused.
        DeviceMemoryError: they do not fit.
    """
    if settings.threads is not None:
        raise InputError(f"threads is for backend 'onnxruntime'; backend {backend!r} has no such setting")
    settings.refuse_provider(backend)
    settings.refuse_sparse_experts(f"backend {backend!r}", "does so in cut engines in any case; leave it out")
    gpus = parse_gpus("cuda" if settings.device is None else settings.device, backend)
    engines = open_engines(bundle, settings.engines, settings.trust, backend, settings.engines_sha256)

    def load(index: int, roles: Sequence[str]) -> DeviceBackend:
        device: Device = CudaDevice(index, backend)
        if profiler is not None:
            device = profiler.device(device)
        return _load_on(device, backend, bundle, engines, roles, settings, profiler)

    halves = (TOWER_GRAPHS[CONTEXT], TOWER_GRAPHS[DENOISER])
    if len(gpus) == 1:
        return load(gpus[0], [role for half in halves for role in half])
    return load_tower_parallel(lambda i: load(gpus[i], halves[i]))


def _load_on(
    device: Device,
    backend: str,
    bundle: Bundle,
    engines: Engines,
    roles: Sequence[str],
    settings: LoadSettings,
    profiler: Profiler | None,
) -> DeviceBackend:
    """Load the graphs of these roles onto one GPU, which is let go of if that fails."""
    manifest = engines.folder.manifest
    records = {n: record for n, record in manifest.engines.items() if record.role in roles}
    names, limits = weight_names(engines, roles), engines.limits
    scope = Scope(device)
    try:
        engine_bytes = sum(manifest.files[f"{name}.engine"].size_bytes for name in records)
        # The smallest generation that the engines allow.
        need = need_of(
            bundle,
            names,
            batch=limits.batch[0],
            capacity=limits.capacity[0],
            block=limits.block[1],
            in_place=False,
            work_bytes=engine_bytes,
        )
        plan_memory(need, [Gpu(device.name, device.free_bytes()[0])]).check()
        device.activate()
        runtime = Runtime(backend, _kernel_file(device, backend, engines, records))
        loaded = {name: runtime.deserialize(name, engines.folder.engine(name)) for name in records}
        weights = upload_weights(bundle, names, scope, settings.progress)
        executor = EngineExecutor(
            backend,
            engines,
            roles,
            EngineBinder(runtime, device, records, loaded, profiler),
            PtxOps(device, bundle.compute_dtype),
            weights,
            scope,
            profiler,
        )
        return DeviceBackend(bundle.config, device, executor, settings.graph_level)
    except BaseException:
        close_all([scope.close, device.close])
        raise


def _kernel_file(device: Device, backend: str, engines: Engines, names: Iterable[str]) -> KernelFile | None:
    """Return where the kernels of these engines are kept; None for TensorRT, whose engines hold theirs."""
    if backend != "tensorrt-rtx":
        return None
    manifest = engines.folder.manifest
    digests = [manifest.files[f"{name}.engine"].sha256 for name in names]
    return KernelFile.of(digests, manifest.backend_version, device.compute_capability)
