"""Times of everything that TensorRT engines, and the kernels between them, put on the GPU's stream.

Every operation is timed by two CUDA events and waited for; what an engine did inside its operation is told by
TensorRT's own profiler, layer by layer. No CUDA graphs: a captured operation is not seen. Written against
TensorRT 11.4 and TensorRT-RTX 1.7; none of it has run on a GPU yet.
"""

import json
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any, cast

from ttc.formats.program import Instruction
from ttc.runtime.gpu.device import Device, DeviceArray, Enqueue, StreamFn
from ttc.runtime.gpu.profiler import Profiler

__all__ = ["EngineProfiler", "OperationTime", "engine_layers", "layer_profiler"]

# Layer of an engine → what the inspector says of it.
Told = Mapping[str, Mapping[str, Any]]


@dataclass(slots=True)
class OperationTime:
    """One operation of the stream.

    Attributes:
        what: "enqueue", "copy", "fill", or the name of a kernel.
        instruction: of a program, that it belongs to; None for whole engines, and for what the backend does
            itself.
        begin: when the host began to enqueue it, in seconds.  seconds: on the device.
        engine: that ran in it, if one did.  layers: its layers in order, with their seconds.
    """

    what: str
    instruction: Instruction | None
    begin: float
    seconds: float = 0.0
    engine: str | None = None
    layers: list[tuple[str, float]] = field(default_factory=list)


class EngineProfiler(Profiler):
    """Keeps the operations of one call.

    Args:
        api: the module tensorrt or tensorrt_rtx.

    Attributes:
        told: engine → its layers as the inspector tells them.  notes: what is not available.
    """

    def __init__(self, api: Any) -> None:
        self._api = api
        self.told: dict[str, Told] = {}
        self.notes: list[str] = []
        self._operations: list[OperationTime] | None = None
        self._instruction: Instruction | None = None
        self._profilers: dict[str, Any] = {}

    def record(self, call: Callable[[], object]) -> list[OperationTime]:
        """Make one call; its operations in order."""
        operations: list[OperationTime] = []
        self._operations = operations
        try:
            call()
        finally:
            self._operations = None
        return operations

    def device(self, device: Device) -> Device:
        """The device, whose operations go through this profiler."""
        return cast(Device, _ProfiledDevice(device, self))

    def instruction(self, instruction: Instruction, work: Enqueue) -> Enqueue:
        """The work, during which operations are known to be the instruction's."""

        def run() -> None:
            self._instruction = instruction
            try:
                work()
            finally:
                self._instruction = None

        return run

    def context(self, name: str, engine: Any, context: Any) -> None:
        """Profile a context of an engine, and ask once what the engine consists of."""
        if name not in self._profilers:
            self._profilers[name] = layer_profiler(self._api, lambda *layer: self._layer(name, *layer))
            self.told[name] = self._inspect(name, engine)
        context.profiler = self._profilers[name]
        # The engine's call then waits for its layers and reports them before it returns.
        context.enqueue_emits_profile = True

    def operation(self, device: Device, what: str, work: Enqueue) -> None:
        """Enqueue one operation, and time it if a call is recorded."""
        if self._operations is None:
            work()
            return
        found = OperationTime(what, self._instruction, time.perf_counter())
        self._operations.append(found)
        found.seconds = device.timed(work)

    def _layer(self, engine: str, layer: str, milliseconds: float) -> None:
        if self._operations:
            self._operations[-1].engine = engine
            self._operations[-1].layers.append((layer, milliseconds / 1e3))

    def _inspect(self, name: str, engine: Any) -> Told:
        try:
            return engine_layers(self._api, engine)
        except ValueError as fault:
            self.notes.append(f"engine {name}: the inspector gave no list of layers ({fault})")
            return {}


class _ProfiledDevice:
    """A device whose operations go through a profiler; everything else is the device's own."""

    def __init__(self, device: Device, profiler: EngineProfiler) -> None:
        self._device, self._profiler = device, profiler
        self._names: dict[int, str] = {}  # kernels by identity: the device keeps them as long as it lives

    def __getattr__(self, name: str) -> Any:
        return getattr(self._device, name)

    def load_kernel(self, name: str, code: bytes, shared_bytes: int = 0) -> Any:
        kernel = self._device.load_kernel(name, code, shared_bytes)
        self._names[id(kernel)] = name
        return kernel

    def launch(self, kernel: Any, *arguments: Any) -> None:
        name = self._names.get(id(kernel), "kernel")
        self._profiler.operation(self._device, name, lambda: self._device.launch(kernel, *arguments))

    def enqueue(self, fn: StreamFn) -> None:
        self._profiler.operation(self._device, "enqueue", lambda: self._device.enqueue(fn))

    def copy(self, target: DeviceArray, source: DeviceArray) -> None:
        self._profiler.operation(self._device, "copy", lambda: self._device.copy(target, source))

    def fill(self, target: DeviceArray, byte: int) -> None:
        self._profiler.operation(self._device, "fill", lambda: self._device.fill(target, byte))


def layer_profiler(api: Any, layer: Callable[[str, float], None]) -> Any:
    """An `IProfiler` that calls `layer(name, milliseconds)`, for `IExecutionContext.profiler`."""

    class Profiler(api.IProfiler):  # type: ignore[misc]  # its base is only known at run time
        def __init__(self) -> None:
            api.IProfiler.__init__(self)

        def report_layer_time(self, layer_name: str, ms: float) -> None:
            layer(layer_name, ms)

    return Profiler()


def engine_layers(api: Any, engine: Any) -> Told:
    """The layers of a deserialised engine as its inspector tells them: more than names only where it was
    built with detailed verbosity. Raises `ValueError` where it tells nothing.
    """
    text = engine.create_engine_inspector().get_engine_information(api.LayerInformationFormat.JSON)
    content = json.loads(text)
    layers = content.get("Layers") if isinstance(content, dict) else None
    if not isinstance(layers, list):
        raise ValueError('no list "Layers"')
    described = (layer for layer in layers if isinstance(layer, dict))
    return {str(layer.get("Name")): layer for layer in described}
