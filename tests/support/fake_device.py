"""A fake device: memory of the host with real addresses, work that runs when its turn comes.

What it proves of the code above it: which operations go onto the stream and in which order, that a captured
graph holds nothing but operations (its Python runs once, when captured), that addresses stay, that nothing
is allocated where nothing may be, and what happens when a call fails. What it cannot: anything about CUDA
itself.
"""

import ctypes
import time
import weakref
from collections.abc import Callable, Mapping, Sequence
from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt

from ttc.base.dtypes import numpy_dtype
from ttc.errors import BackendError, DeviceMemoryError
from ttc.runtime.gpu import append_kv, block_loop
from ttc.runtime.gpu.device import Device, DeviceArray, Enqueue, Graph, Memory, StreamFn
from ttc.runtime.gpu.faults import Faults

Bytes = npt.NDArray[np.uint8]
FakeKernel = Callable[..., None]


class Logged(NamedTuple):
    """A call that orders the work of devices and host, and the bytes that it copies."""

    device: str
    call: str
    nbytes: int = 0


# Code that this driver refuses.
REFUSED_CODE = b"PTX of tomorrow"
POISON = 0xFF  # as float32, float16 and bfloat16 it is NaN, as an index it is −1


class FakeDevice(Device):
    """kernels: name → function that stands for a CUDA kernel; it gets the launch's arguments."""

    current: str | None = None  # the GPU that a thread of CUDA would have

    def __init__(
        self,
        kernels: Mapping[str, FakeKernel] | None = None,
        total: int = 2**40,
        name: str = "cuda:0",
        loop_problem: str | None = None,
    ) -> None:
        self.name, self.compute_capability, self.loop_problem = name, "9.0", loop_problem
        self.launches = self.waits = self.downloaded = 0  # the last in bytes
        self.kernels = dict(kernels or {})
        self.blocks: dict[int, Bytes] = {}  # address → memory that is allocated
        self.pinned_bytes: dict[int, int] = {}  # pinned memory that is still referred to: bytes
        self.total, self.allocations = total, 0
        self.grid: tuple[int, ...] = ()  # of the launch that runs
        self.condition: int | None = None  # of the loop that runs; its kernels set it
        self.refuse_capture: str | None = None
        self.peer_problem: str | None = None
        self.fail_in: int | None = None  # operations until an error, after which there is none
        self.fail_with = "CUDA_ERROR_ILLEGAL_ADDRESS"  # what CUDA, or a library, says then
        self.faults = Faults(name, {})  # what the process, here a test, remembers of this GPU
        self.closed = False
        self.graphs: list[_FakeGraph] = []
        self.log: list[Logged] | None = None  # where given: what orders devices and host; two may share one
        self._recording: list[Callable[[], None]] | None = None

    @property
    def capturing(self) -> bool:
        return self._recording is not None

    def activate(self) -> None:
        self._check()
        FakeDevice.current = self.name

    def free_bytes(self) -> tuple[int, int]:
        return self.total - sum(block.nbytes for block in self.blocks.values()), self.total

    def allocate(self, nbytes: int) -> Memory:
        self._check()
        assert self._recording is None, "nothing may be allocated inside a capture"
        if nbytes > self.free_bytes()[0]:
            raise DeviceMemoryError(f"{self.name}: {nbytes} bytes are due, {self.free_bytes()[0]} are free")
        self.allocations += 1
        room = np.full(nbytes + 256, POISON, np.uint8)
        address = -(-room.ctypes.data // 256) * 256
        self.blocks[address] = room

        def free() -> None:
            del self.blocks[address]

        return Memory(address, nbytes, free)

    def pinned(self, nbytes: int) -> Bytes:
        self._check()
        made = np.full(nbytes, POISON, np.uint8)
        key = id(made)
        self.pinned_bytes[key] = nbytes
        weakref.finalize(made, self.pinned_bytes.pop, key)
        return made

    def upload(self, target: DeviceArray, source: Bytes) -> None:
        assert self._recording is None
        self._check()
        self.bytes_of(target)[:] = source.ravel().view(np.uint8)

    def download(self, target: Bytes, source: DeviceArray) -> None:
        self.wait()
        self.downloaded += source.nbytes
        target[:] = self.bytes_of(source)

    def copy(self, target: DeviceArray, source: DeviceArray) -> None:
        assert target.nbytes == source.nbytes
        self._put(lambda: self.bytes_of(target).__setitem__(slice(None), self.bytes_of(source)))

    def copy_from(self, target: DeviceArray, sender: Device, source: DeviceArray) -> None:
        assert isinstance(sender, FakeDevice)
        assert sender is not self
        assert self._recording is None
        assert target.nbytes == source.nbytes
        self._log("copy_from", target.nbytes)
        self._put(lambda: self.bytes_of(target).__setitem__(slice(None), sender.bytes_of(source)))

    def open_to(self, other: Device) -> str | None:
        self._log("open_to")
        return self.peer_problem

    def record_event(self) -> Any:
        assert self._recording is None
        self._log("record_event")
        return self.name, self.launches

    def wait_event(self, event: Any) -> None:
        assert event[0] != self.name
        self._log("wait_event")

    def wait_for(self, event: Any) -> None:
        assert event[0] == self.name
        self._check()
        self._log("wait_for")

    def fill(self, target: DeviceArray, byte: int) -> None:
        self._put(lambda: self.bytes_of(target).fill(byte))

    def enqueue(self, fn: StreamFn) -> None:
        self._put(lambda: fn(0))

    def load_kernel(self, name: str, code: bytes, shared_bytes: int = 0) -> Any:
        if name not in self.kernels or code == REFUSED_CODE:
            raise BackendError(f"{self.name}: the driver refuses the kernel {name}")
        return self.kernels[name]

    def launch(
        self, kernel: Any, grid: Sequence[int], threads: int, shared_bytes: int, arguments: Sequence[Any]
    ) -> None:
        assert all(isinstance(argument, int | np.generic) for argument in arguments)

        def run() -> None:
            self.grid = tuple(grid)
            kernel(self, *arguments)

        self._put(run)

    def capture(self, work: Enqueue) -> Graph:
        return _FakeGraph(self, self._record(work), loop=False)

    def capture_loop(self, work: Enqueue, last: Callable[[int], None]) -> Graph:
        return _FakeGraph(self, [*self._record(work), *self._record(lambda: last(1))], loop=True)

    def wait(self) -> None:
        assert self._recording is None, "nothing may wait inside a capture"
        self._check()
        self._log("wait")
        self.waits += 1

    def timed(self, work: Enqueue) -> float:
        assert self._recording is None, "nothing may be timed inside a capture"
        start = time.perf_counter()
        work()
        self.wait()
        return time.perf_counter() - start

    def exchange(self, array: DeviceArray) -> Bytes:
        return self.bytes_of(array)

    def close(self) -> None:
        self.closed = True

    def bytes_of(self, array: DeviceArray) -> Bytes:
        """The memory of an array; fails for one that was given back."""
        assert array.memory.address in self.blocks, "memory that was given back"
        return self.at(array.address, array.nbytes)

    def at(self, address: int, nbytes: int) -> Bytes:
        raw = (ctypes.c_uint8 * nbytes).from_address(address)
        return np.frombuffer(raw, np.uint8)

    def values(self, array: DeviceArray) -> npt.NDArray[Any]:
        """A view of an array with its dtype and shape."""
        return self.bytes_of(array).view(numpy_dtype(array.dtype)).reshape(array.shape)

    def write(self, array: DeviceArray, values: npt.NDArray[Any]) -> DeviceArray:
        """Fill an array."""
        self.values(array)[...] = values
        return array

    def _log(self, call: str, nbytes: int = 0) -> None:
        if self.log is not None:
            self.log.append(Logged(self.name, call, nbytes))

    def _put(self, operation: Callable[[], None]) -> None:
        self._check()
        if self._recording is not None:
            self._recording.append(operation)
            return
        self.launches += 1
        self._run(operation)

    def _run(self, operation: Callable[[], None]) -> None:
        if self.fail_in is not None:
            self.fail_in -= 1
            if self.fail_in < 0:
                self.fail_in = None
                raise self.faults.error(self.fail_with)
        operation()

    def _record(self, work: Enqueue) -> list[Callable[[], None]]:
        self._check()
        if self.refuse_capture is not None:
            raise BackendError(self.refuse_capture)
        self._recording = []
        try:
            work()
            return self._recording
        finally:
            self._recording = None

    def _check(self) -> None:
        self.faults.check()


class _FakeGraph(Graph):
    def __init__(self, device: FakeDevice, operations: list[Callable[[], None]], loop: bool) -> None:
        self._device, self.operations, self._loop = device, operations, loop
        self.closed = False
        device.graphs.append(self)

    def launch(self) -> None:
        assert not self.closed
        device = self._device
        device._check()
        device.launches += 1
        while True:  # a kernel of the body sets the condition; one that does not would loop for ever
            device.condition = None
            for operation in self.operations:
                device._run(operation)
            if not self._loop or not device.condition:
                assert not self._loop or device.condition is not None, "no kernel set the condition"
                return

    def close(self) -> None:
        self.closed = True


def with_loop_kernel(**settings: Any) -> FakeDevice:
    """A fake device that can run the two kernels in CUDA C."""
    return FakeDevice({block_loop.KERNEL: block_update, append_kv.KERNEL: append_kv_kernel}, **settings)


def block_update(device: FakeDevice, *arguments: Any) -> None:
    """`block_loop.update` with the arguments of the CUDA kernel."""
    next_ids, predicted, confidence, masked, B, L, condition, block, t, step, left, records = arguments
    shape = {"i": np.dtype(np.int32), "f": np.dtype(np.float32)}

    def at(address: int, kind: str, *dims: Any) -> Any:
        size = tuple(int(dim) for dim in dims)
        return device.at(address, 4 * int(np.prod(size))).view(shape[kind]).reshape(size)

    goes_on = block_loop.update(
        at(next_ids, "i", B, L),
        at(predicted, "i", B, L),
        at(confidence, "f", B, L),
        at(masked, "i", B),
        at(block, "i", B, L),
        at(t, "f", B),
        at(step, "i", B),
        at(left, "i", B),
        at(records, "i", L, block_loop.record_words(int(B), int(L))),
    )
    if condition:
        device.condition = int(goes_on)


def append_kv_kernel(device: FakeDevice, *arguments: Any) -> None:
    """`append_kv.append_kv` with the arguments of the CUDA kernel, cache by cache."""
    new_kv, lengths, H, L, C, words, new_kv_apart, caches_apart, caches = arguments
    grid = device.grid
    B, count = grid[0] // int(H * L), grid[1]

    def at(address: int, *shape: Any) -> Any:
        size = tuple(int(dim) for dim in shape)
        return device.at(address, 2 * int(np.prod(size))).view(np.uint16).reshape(size)

    taken = device.at(lengths, 4 * B).view(np.int32)
    for cache in range(count):
        append_kv.append_kv(
            at(new_kv + 2 * cache * int(new_kv_apart), 1, B, H, L, words),
            taken,
            at(caches + 2 * cache * int(caches_apart), 1, B, H, C, words),
        )


def no_compiler(name: str, source: str, compute_capability: str) -> bytes:
    """The fake device runs no PTX."""
    return b""
