"""The device interface on CUDA, through cuda.core and cuda.bindings.

Written against cuda.core 1.2 and cuda.bindings 13, CUDA driver 12.4 or newer; nothing of this file has run on
a GPU yet. No torch is needed.

Errors become `BackendError`s by `ttc.runtime.gpu.faults`, which also says when no call can succeed any more.
"""

import ctypes
import functools
import logging
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
import numpy.typing as npt

from ttc.errors import BackendError, DeviceMemoryError
from ttc.runtime.gpu.closing import close_all
from ttc.runtime.gpu.cuda_driver import loop_problem, requirements, status_name
from ttc.runtime.gpu.device import Device, DeviceArray, Enqueue, Graph, Memory, StreamFn
from ttc.runtime.gpu.faults import Faults, is_sticky
from ttc.runtime.gpu.nvrtc import is_cubin

__all__ = ["NOTHING_PTX", "CudaDevice"]

logger = logging.getLogger(__name__)
# A kernel that does nothing, in PTX that every driver and GPU takes.
_NOTHING = "ttc_nothing"
NOTHING_PTX = f""".version 6.0
.target sm_50
.address_size 64
.visible .entry {_NOTHING}()
{{
    ret;
}}
""".encode()
# What a kernel may use without asking the driver.
_PLAIN_SHARED_BYTES = 48 * 1024


class CudaDevice(Device):
    """GPU number `index`. Raises as `requirements`."""

    def __init__(self, index: int, backend: str) -> None:
        core = requirements(backend)
        from cuda.bindings import driver

        self.name = f"cuda:{index}"
        self._core, self._driver = core, driver
        self._faults = Faults(self.name)
        self._faults.check()
        count = self._checked(driver.cuDeviceGetCount())
        if index >= count:
            raise BackendError(
                f"device {self.name!r}: there are {count} GPUs; valid: cuda:0 to cuda:{count - 1}"
            )
        self._gpu = core.Device(index)
        self._gpu.set_current()
        major, minor = self._gpu.compute_capability
        self.compute_capability = f"{major}.{minor}"
        self.driver_version = int(self._checked(driver.cuDriverGetVersion()))
        self.loop_problem = loop_problem(self.driver_version)
        self.launches = self.waits = 0
        self._own = self._gpu.create_stream()
        # The stream that work goes to: a graph's while one is captured.
        self._stream: Any = self._own
        self._capturing = False
        self._nothing: Any = None

    @property
    def capturing(self) -> bool:
        return self._capturing

    def activate(self) -> None:
        self._enter()

    def free_bytes(self) -> tuple[int, int]:
        self._enter()
        free, total = self._checked(self._driver.cuMemGetInfo())
        return int(free), int(total)

    def allocate(self, nbytes: int) -> Memory:
        self._enter()
        status, address = self._driver.cuMemAlloc(nbytes)
        if status == self._driver.CUresult.CUDA_ERROR_OUT_OF_MEMORY:
            free, total = self.free_bytes()
            raise DeviceMemoryError(
                f"{self.name}: {_gigabytes(nbytes)} are due, "
                f"{_gigabytes(free)} of {_gigabytes(total)} are free"
            )
        self._checked((status,))
        handle = int(address)
        return Memory(handle, nbytes, lambda: self._free(handle))

    def pinned(self, nbytes: int) -> npt.NDArray[np.uint8]:
        self._enter()
        address = int(self._checked(self._driver.cuMemHostAlloc(nbytes, 0)))
        raw = (ctypes.c_uint8 * nbytes).from_address(address)
        owner = _Pinned(raw, lambda: self._free_host(address))
        array: npt.NDArray[np.uint8] = np.asarray(owner)
        return array

    def upload(self, target: DeviceArray, source: npt.NDArray[np.uint8]) -> None:
        assert not self._capturing, "a copy from the host belongs before the graph"
        assert target.nbytes == source.nbytes
        self._enter()
        call = self._driver.cuMemcpyHtoDAsync(
            target.address, source.ctypes.data, source.nbytes, self._own.handle
        )
        self._checked(call)

    def download(self, target: npt.NDArray[np.uint8], source: DeviceArray) -> None:
        assert target.nbytes == source.nbytes
        self._enter()
        call = self._driver.cuMemcpyDtoHAsync(
            target.ctypes.data, source.address, source.nbytes, self._own.handle
        )
        self._checked(call)
        self.wait()

    def copy(self, target: DeviceArray, source: DeviceArray) -> None:
        assert target.nbytes == source.nbytes
        self._enter()
        self._count()
        self._checked(
            self._driver.cuMemcpyDtoDAsync(
                target.address, source.address, source.nbytes, self._stream_handle()
            )
        )

    def copy_from(self, target: DeviceArray, sender: Device, source: DeviceArray) -> None:
        assert isinstance(sender, CudaDevice)
        assert not self._capturing
        assert target.nbytes == source.nbytes
        written = sender.record_event()
        self._enter()
        self.launches += 1
        self._translated(lambda: self._own.wait(written))
        self._checked(
            self._driver.cuMemcpyPeerAsync(
                target.address,
                self._gpu.context.handle,
                source.address,
                sender.context_handle,
                source.nbytes,
                self._own.handle,
            )
        )

    def open_to(self, other: Device) -> str | None:
        assert isinstance(other, CudaDevice)
        self._enter()
        results = self._driver.CUresult
        (status,) = self._driver.cuCtxEnablePeerAccess(other.context_handle, 0)
        if status in (results.CUDA_SUCCESS, results.CUDA_ERROR_PEER_ACCESS_ALREADY_ENABLED):
            return None
        return f"{self.name} cannot reach the memory of {other.name} ({status_name(status)})"

    @property
    def context_handle(self) -> Any:
        """The handle of the GPU's context."""
        return self._gpu.context.handle

    def record_event(self) -> Any:
        self._enter()
        return self._translated(self._own.record)

    def wait_event(self, event: Any) -> None:
        self._enter()
        self._translated(lambda: self._own.wait(event))

    def wait_for(self, event: Any) -> None:
        self._enter()
        self._translated(event.sync)

    def fill(self, target: DeviceArray, byte: int) -> None:
        self._enter()
        self._count()
        self._checked(
            self._driver.cuMemsetD8Async(target.address, byte, target.nbytes, self._stream_handle())
        )

    def enqueue(self, fn: StreamFn) -> None:
        self._enter()
        self._count()
        self._translated(lambda: fn(int(self._stream_handle())))

    def load_kernel(self, name: str, code: bytes, shared_bytes: int = 0) -> Any:
        if shared_bytes > _PLAIN_SHARED_BYTES:
            raise BackendError(
                f"kernel {name} needs {shared_bytes} bytes of shared memory; "
                f"{_PLAIN_SHARED_BYTES} are granted unasked"
            )
        self._enter()

        def load() -> Any:
            make = self._core.ObjectCode.from_cubin if is_cubin(code) else self._core.ObjectCode.from_ptx
            return make(code, name=name).get_kernel(name)

        try:
            return self._translated(load)
        except BackendError as fault:
            raise BackendError(f"kernel {name} cannot be loaded ({fault})") from None

    def launch(
        self, kernel: Any, grid: Sequence[int], threads: int, shared_bytes: int, arguments: Sequence[Any]
    ) -> None:
        self._enter()
        self._count()
        config = self._core.LaunchConfig(grid=tuple(grid), block=(threads, 1, 1), shmem_size=shared_bytes)
        self._translated(lambda: self._core.launch(self._stream, config, kernel, *arguments))

    def capture(self, work: Enqueue) -> Graph:
        def build(builders: list[Any]) -> Any:
            return self._recorded(builders, work).complete()

        return self._captured(build)

    def capture_loop(self, work: Enqueue, last: Callable[[int], None]) -> Graph:
        nothing = self._load_nothing()

        def build(builders: list[Any]) -> Any:
            # A loop's body is captured on a stream that cuda.core makes for it. So the work becomes a graph
            # on our own stream first, and a child node of the body.
            step = self._recorded(builders, work)
            whole = self._begun(builders, self._own.create_graph_builder())
            condition = whole.create_condition(default_value=1)
            body = self._begun(builders, whole.while_loop(condition))
            # Some versions of cuda.core cannot make a child graph the first node of a body.
            self._inside(body, lambda: self.launch(nothing, (1, 1, 1), 1, 0, []))
            body.embed(step)
            self._inside(body, lambda: last(int(condition.handle)))
            body.end_building()
            whole.end_building()
            return whole.complete()

        return self._captured(build)

    def _load_nothing(self) -> Any:
        if self._nothing is None:
            self._nothing = self.load_kernel(_NOTHING, NOTHING_PTX)
        return self._nothing

    def wait(self) -> None:
        self._enter()
        self.waits += 1
        self._translated(self._own.sync)

    def timed(self, work: Enqueue) -> float:
        assert not self._capturing
        self._enter()
        options = self._core.EventOptions(timing_enabled=True)
        begin = self._translated(lambda: self._own.record(options=options))
        work()
        end = self._translated(lambda: self._own.record(options=options))
        self.wait()
        return float(self._translated(lambda: end - begin)) / 1e3  # events differ by milliseconds

    def exchange(self, array: DeviceArray) -> Any:
        return _Bytes(array)

    def close(self) -> None:
        close_all([self._own.close])

    def launch_graph(self, graph: Any) -> None:
        """Put a graph of cuda.core on the stream."""
        self._enter()
        self.launches += 1
        self._translated(lambda: graph.launch(self._own))

    def _captured(self, build: Callable[[list[Any]], Any]) -> Graph:
        """What `build` makes of graph builders, all of which it lists; they are closed whatever happens."""
        assert not self._capturing
        self._enter()
        self.wait()  # what ran before has let go of what a capture may not touch
        builders: list[Any] = []

        def make() -> Any:
            graph = build(builders)
            graph.upload(self._own)
            return graph

        try:
            return _CudaGraph(self, self._translated(make))
        finally:
            for builder in reversed(builders):
                close_all([functools.partial(_end, builder), builder.close])

    def _recorded(self, builders: list[Any], work: Enqueue) -> Any:
        """A builder that has captured this work on the own stream."""
        builder = self._begun(builders, self._own.create_graph_builder())
        self._inside(builder, work)
        return builder.end_building()

    @staticmethod
    def _begun(builders: list[Any], builder: Any) -> Any:
        builders.append(builder)
        return builder.begin_building("relaxed")

    def _inside(self, builder: Any, work: Enqueue) -> None:
        self._stream, self._capturing = builder, True
        try:
            work()
        finally:
            self._stream, self._capturing = self._own, False

    def _stream_handle(self) -> Any:
        return self._stream.stream.handle if self._capturing else self._stream.handle

    def _count(self) -> None:
        if not self._capturing:
            self.launches += 1

    def _enter(self) -> None:
        """Refuse what cannot succeed any more; make this GPU the thread's current one."""
        self._faults.check()
        self._gpu.set_current()

    def _free_host(self, address: int) -> None:
        """Free pinned memory; the garbage collector may call it in a thread that has no GPU yet."""
        if self._faults.sticky_error is None:
            self._gpu.set_current()
            (status,) = self._driver.cuMemFreeHost(address)
            if int(status) != 0:
                logger.warning("%s: pinned memory was not freed (%s)", self.name, status_name(status))

    def _free(self, address: int) -> None:
        if self._faults.sticky_error is None:
            self._gpu.set_current()
            self._checked(self._driver.cuMemFree(address))

    def _checked(self, answer: tuple[Any, ...]) -> Any:
        """The values of a call of the bindings, whose first entry is the status."""
        status, *values = answer
        if int(status) != 0:
            raise self._faults.error(status_name(status))
        return values[0] if len(values) == 1 else tuple(values)

    def _translated(self, call: Callable[[], Any]) -> Any:
        """What the call gives; an error of cuda.core or of a library as `BackendError`."""
        try:
            return call()
        except BackendError as fault:  # ours, with what TensorRT said of CUDA
            if is_sticky(str(fault)):
                raise self._faults.error(str(fault)) from fault
            raise
        except Exception as fault:  # cuda.core, TensorRT and torch have no common base class
            said = " ".join(str(fault).split())[:300] or type(fault).__name__
            raise self._faults.error(said) from fault


class _CudaGraph(Graph):
    def __init__(self, device: CudaDevice, graph: Any) -> None:
        self._device, self._graph = device, graph

    def launch(self) -> None:
        self._device.launch_graph(self._graph)

    def close(self) -> None:
        self._graph.close()


class _Pinned:
    """Pinned memory as numpy sees it; freed with the last array over it."""

    def __init__(self, raw: Any, free: Callable[[], object]) -> None:
        self._raw, self._free = raw, free
        self.__array_interface__ = np.frombuffer(raw, np.uint8).__array_interface__

    def __del__(self) -> None:
        self._free()


class _Bytes:
    """The bytes of an array on the GPU as other libraries take them."""

    def __init__(self, array: DeviceArray) -> None:
        self._memory = array.memory
        self.__cuda_array_interface__ = {
            "shape": (array.nbytes,),
            "typestr": "|u1",
            "data": (array.address, False),
            "version": 3,
            "strides": None,
        }


def _end(builder: Any) -> None:
    """End an unfinished capture, which would keep the stream. Once CUDA has declared a capture invalid,
    `is_building` and `end_building` raise, and only `close` ends it.
    """
    if builder.is_building:
        builder.end_building()


def _gigabytes(nbytes: int) -> str:
    return f"{nbytes / 1e9:.2f} GB"
