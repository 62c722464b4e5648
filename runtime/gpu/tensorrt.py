"""TensorRT and TensorRT-RTX engines bound to tensors at fixed addresses.

Written against tensorrt_rtx 1.7 and the Python API of tensorrt 11.4, which are one here but for the runtime
settings of TensorRT-RTX. Nothing of this file has run on a GPU yet.
"""

import importlib
import logging
from collections.abc import Mapping, Sequence
from typing import Any

from ttc.base.distribution import install
from ttc.base.names import BACKEND_PACKAGES
from ttc.errors import BackendError
from ttc.formats.engines import EngineRecord
from ttc.formats.program import Instruction
from ttc.runtime.gpu.closing import close_all
from ttc.runtime.gpu.device import Device, DeviceArray, Enqueue, Memory, Scope
from ttc.runtime.gpu.kernel_files import KernelFile
from ttc.runtime.gpu.profiler import Profiler

__all__ = ["EngineBinder", "Runtime"]

logger = logging.getLogger(__name__)


class Runtime:
    """An imported TensorRT and its runtime. `MissingDependencyError` is `find_backend`'s to raise, before.

    Args:
        kernels: where kernels that TensorRT-RTX makes are kept; TensorRT makes none at run time.
    """

    def __init__(self, backend: str, kernels: KernelFile | None = None) -> None:
        self.backend, self._kernels = backend, kernels
        self._cache: Any = None  # TensorRT-RTX's kernels, for all contexts
        try:
            self._api: Any = importlib.import_module(BACKEND_PACKAGES[backend])
        except (ImportError, OSError) as fault:
            raise BackendError(
                f"{backend} is installed, but its library cannot be loaded ({fault}); "
                f"install it again with: {install(backend, options='--force-reinstall')}"
            ) from None
        self._said: list[str] = []
        self._runtime = self._api.Runtime(self._logger())
        if self._runtime is None:
            raise BackendError(f"{backend}: no runtime; {self._reason()}")

    def deserialize(self, name: str, content: bytes) -> Any:
        """Return the engine in these bytes, which must have been checked before."""
        self._said.clear()
        engine = self._runtime.deserialize_cuda_engine(content)
        if engine is None:
            raise BackendError(
                f"engine {name} cannot be loaded here; {self._reason()}; build it for this GPU"
            )
        return engine

    def context(self, engine: Any) -> Any:
        """Return an execution context whose memory is the caller's."""
        strategy = self._api.ExecutionContextAllocationStrategy.USER_MANAGED
        if self.backend != "tensorrt-rtx":
            return engine.create_execution_context(strategy)
        settings = engine.create_runtime_config()
        settings.set_execution_context_allocation_strategy(strategy)
        # Graphs are ours; kernels that are exchanged later would not be in them.
        settings.cuda_graph_strategy = self._api.CudaGraphStrategy.DISABLED
        settings.dynamic_shapes_kernel_specialization_strategy = (
            self._api.DynamicShapesKernelSpecializationStrategy.EAGER
        )
        settings.set_runtime_cache(self._runtime_cache(settings))
        return engine.create_execution_context(settings)

    def keep_kernels(self) -> None:
        """Keep the kernels that were made for the next process, if that is wanted."""
        if self._cache is not None and self._kernels is not None:
            self._kernels.write(bytes(self._cache.serialize()))

    def _runtime_cache(self, settings: Any) -> Any:
        """Return the cache that all contexts share, made from what is kept where the library takes that."""
        if self._cache is None:
            self._cache = settings.create_runtime_cache()
            kept = None if self._kernels is None else self._kernels.read()
            if kept is not None and not self._cache.deserialize(kept):
                logger.info(
                    f"kept kernels are of another driver or GPU, and are made again; {self._reason()}"
                )
        return self._cache

    def failed(self, name: str, what: str) -> BackendError:
        """Return the error for an engine that refused, with what the library said."""
        return BackendError(f"engine {name}: {what}; {self._reason()}")

    def _reason(self) -> str:
        return "; ".join(self._said[-3:]) or "the library gave no reason"

    def _logger(self) -> Any:
        base: Any = self._api.ILogger
        said = self._said

        class Logger(base):  # type: ignore[misc]  # its base is only known at run time
            def log(self, severity: Any, message: str) -> None:
                text = " ".join(message.split())[:300]
                if severity in (base.INTERNAL_ERROR, base.ERROR):
                    said.append(text)
                    del said[:-8]
                elif severity == base.WARNING:
                    logger.info(text)

        return Logger()


class EngineBinder:
    """Binds engines to tensors: whole graphs by the names of their tensors, segments by their positions.

    `capture_problem`: why an engine that has run cannot be captured into a graph; None where all can.

    Args:
        records: name → what the engine takes and gives, from the manifest.  engines: deserialised.
        profiler: is told of every context.
    """

    def __init__(
        self,
        runtime: Runtime,
        device: Device,
        records: Mapping[str, EngineRecord],
        engines: Mapping[str, Any],
        profiler: Profiler | None = None,
    ) -> None:
        self._runtime, self._device, self._profiler = runtime, device, profiler
        self._records, self._engines = records, dict(engines)
        # All engines of a scope run one after another, in the memory that the largest needs.
        self._scratch_bytes = max(
            (int(engine.device_memory_size_v2) for engine in engines.values()), default=0
        )
        self.capture_problem: str | None = None

    def __call__(
        self,
        scope: Scope,
        instruction: Instruction,
        inputs: Sequence[DeviceArray],
        outputs: Sequence[DeviceArray],
    ) -> Enqueue:
        """Return the work of one segment of a program."""
        named = {f"in_{n}": array for n, array in enumerate(inputs)}
        return self.bind(
            scope, instruction.name, named | {f"out_{n}": array for n, array in enumerate(outputs)}
        )

    def bind(self, scope: Scope, name: str, tensors: Mapping[str, DeviceArray]) -> Enqueue:
        """Return the work of one run of the engine `name`; tensors it does not have are ignored."""
        record, engine = self._records[name], self._engines[name]
        used = {tensor.name: tensors[tensor.name] for tensor in (*record.inputs, *record.outputs)}
        context, told = self._context(
            scope, name, engine, {t.name: used[t.name].shape for t in record.inputs}
        )

        first = True

        def run(stream: int) -> None:
            nonlocal first
            for tensor, array in used.items():
                if told.get(tensor) == array.address:
                    continue
                if not context.set_tensor_address(tensor, array.address):
                    raise self._runtime.failed(name, f"refuses the address of {tensor}")
                told[tensor] = array.address
            if not context.execute_async_v3(stream):
                raise self._runtime.failed(name, "does not run")
            if first:
                first = False
                self._ask_capturable(name, context, stream)

        return lambda: self._device.enqueue(run)

    def _ask_capturable(self, name: str, context: Any, stream: int) -> None:
        """Learn whether its work can be captured from this stream; only TensorRT-RTX has an answer."""
        if self.capture_problem is not None or not hasattr(context, "is_stream_capturable"):
            return
        if not context.is_stream_capturable(stream):
            self.capture_problem = f"{self._runtime.backend} says that engine {name} cannot be captured"

    def close(self) -> None:
        """Let go of the engines."""
        close_all([self._runtime.keep_kernels, self._engines.clear])

    def _context(
        self, scope: Scope, name: str, engine: Any, shapes: Mapping[str, tuple[int, ...]]
    ) -> tuple[Any, dict[str, int]]:
        """Return an execution context for these input shapes, and the addresses that it was told; equal ones
        of a scope share both.
        """
        key = (name, *shapes.values())
        if key in scope.kept:
            found: tuple[Any, dict[str, int]] = scope.kept[key]
            return found
        self._device.activate()
        context = self._runtime.context(engine)
        if context is None:
            raise self._runtime.failed(name, "gives no execution context")
        for tensor in self._records[name].inputs:
            if tensor.min != tensor.max and not context.set_input_shape(tensor.name, shapes[tensor.name]):
                raise self._runtime.failed(
                    name,
                    f"refuses {tensor.name} {list(shapes[tensor.name])}; built for {list(tensor.min)} to "
                    f"{list(tensor.max)}",
                )
        scratch = self._scratch(scope)
        context.set_device_memory(scratch.address, scratch.nbytes)
        if self._profiler is not None:
            self._profiler.context(name, engine, context)
        made = scope.kept[key] = context, dict[str, int]()
        return made

    def _scratch(self, scope: Scope) -> Memory:
        """Return the scratch memory of the scope."""
        if "scratch" not in scope.kept:
            scope.kept["scratch"] = scope.allocate(max(self._scratch_bytes, 1))
        found: Memory = scope.kept["scratch"]
        return found
