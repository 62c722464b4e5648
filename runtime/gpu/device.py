"""One GPU as the backends see it: memory with fixed addresses, one stream of work, graphs made of that work.

Everything put on the stream goes through `enqueue`, `copy`, `fill` or `launch`. These are the only calls that
a capture can record, and the only ones that a test has to fake. Outside a capture, such an operation runs
when its turn comes; inside one it becomes a node of the graph and does not run.
"""

import contextlib
from abc import ABC, abstractmethod
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from math import prod
from typing import Any

import numpy as np
import numpy.typing as npt

from ttc.base.dtypes import numpy_dtype
from ttc.runtime.gpu.closing import close_all

__all__ = ["ALIGNMENT", "Device", "DeviceArray", "Enqueue", "Graph", "Memory", "Scope", "StreamFn", "aligned"]

# What CUDA aligns allocations to; the kernels load 16 bytes at once.
ALIGNMENT = 256
# Puts work on the device's stream when it is called.
Enqueue = Callable[[], None]
# Launches something on the stream whose raw handle (cudaStream_t as a number) it gets.
StreamFn = Callable[[int], None]


class Memory:
    """A block of device memory at a fixed address until `free`."""

    def __init__(self, address: int, nbytes: int, free: Callable[[], None]) -> None:
        self.address, self.nbytes = address, nbytes
        self._free: Callable[[], None] | None = free

    def free(self) -> None:
        """Give it back; a second call does nothing."""
        if self._free is not None:
            free, self._free = self._free, None
            free()


@dataclass(frozen=True, slots=True)
class DeviceArray:
    """A C-contiguous tensor in device memory. `dtype` is a numpy name, "bfloat16" included."""

    memory: Memory = field(repr=False, compare=False)
    address: int
    dtype: str
    shape: tuple[int, ...]

    @classmethod
    def at(cls, memory: Memory, offset: int, dtype: str, shape: Sequence[int]) -> "DeviceArray":
        """The tensor that starts `offset` bytes into the memory."""
        made = cls(memory, memory.address + offset, dtype, tuple(shape))
        assert 0 <= offset <= memory.nbytes - made.nbytes, f"{made} reaches past its memory"
        return made

    @property
    def nbytes(self) -> int:
        """Size in bytes."""
        return prod(self.shape) * numpy_dtype(self.dtype).itemsize

    def part(self, first: int, count: int) -> "DeviceArray":
        """`count` entries of the first axis from `first` on."""
        row = self.nbytes // self.shape[0] if self.shape[0] else 0
        offset = self.address - self.memory.address + first * row
        return DeviceArray.at(self.memory, offset, self.dtype, (count, *self.shape[1:]))


class Scope:
    """Memory of one device that is given back together. `kept`: whatever else is to go with it."""

    def __init__(self, device: "Device") -> None:
        self.device = device
        self._blocks: list[Memory] = []
        self.kept: dict[Any, Any] = {}

    def allocate(self, nbytes: int) -> Memory:
        """A block that lives as long as the scope. Raises as `Device.allocate`."""
        self._blocks.append(self.device.allocate(max(nbytes, 1)))
        return self._blocks[-1]

    def array(self, dtype: str, shape: Sequence[int]) -> DeviceArray:
        """A tensor in a block of its own, content undefined."""
        nbytes = prod(shape) * numpy_dtype(dtype).itemsize
        return DeviceArray.at(self.allocate(nbytes), 0, dtype, shape)

    @contextlib.contextmanager
    def all_or_nothing(self) -> Iterator[None]:
        """What is allocated inside is given back at once if the body fails, and what refers to it let go."""
        before, kept = len(self._blocks), dict(self.kept)
        try:
            yield
        except BaseException:
            self.kept = kept
            made, self._blocks = self._blocks[before:], self._blocks[:before]
            close_all(block.free for block in reversed(made))
            raise

    def close(self) -> None:
        """Give everything back; nothing on the stream may still use it. Never raises."""
        self.kept.clear()
        blocks, self._blocks = self._blocks, []
        close_all(block.free for block in reversed(blocks))


class Graph(ABC):
    """Captured work that is launched as one."""

    @abstractmethod
    def launch(self) -> None:
        """Put it on the device's stream."""

    @abstractmethod
    def close(self) -> None:
        """Let go of it."""


class Device(ABC):
    """One GPU, used by one thread at a time.

    Attributes:
        name: "cuda:0".
        compute_capability: "9.0".
        loop_problem: why a graph with a WHILE node cannot be made here; None where it can.
        launches, waits: graphs and operations that the host put on the stream (copies between host and device
            apart), and times that it waited, since the start; what benchmarks count.

    Every call raises `BackendError` when CUDA reports an error, and from then on where CUDA keeps it.
    """

    name: str
    compute_capability: str
    loop_problem: str | None
    launches: int
    waits: int

    @abstractmethod
    def activate(self) -> None:
        """Make this GPU the calling thread's, for libraries that take the current one."""

    @abstractmethod
    def free_bytes(self) -> tuple[int, int]:
        """Free and total memory in bytes."""

    @abstractmethod
    def allocate(self, nbytes: int) -> Memory:
        """Memory with undefined content; `DeviceMemoryError` where there is not enough."""

    @abstractmethod
    def pinned(self, nbytes: int) -> npt.NDArray[np.uint8]:
        """Host memory that the device reads and writes directly."""

    @abstractmethod
    def upload(self, target: DeviceArray, source: npt.NDArray[np.uint8]) -> None:
        """Enqueue a copy from pinned memory, whose content must stay until `wait`; never captured."""

    @abstractmethod
    def download(self, target: npt.NDArray[np.uint8], source: DeviceArray) -> None:
        """Copy to pinned memory and wait for it."""

    @abstractmethod
    def copy(self, target: DeviceArray, source: DeviceArray) -> None:
        """Enqueue a copy of equal size on the device."""

    @abstractmethod
    def copy_from(self, target: DeviceArray, sender: "Device", source: DeviceArray) -> None:
        """Enqueue a copy from another device, never captured: it starts when what is enqueued there now is
        done. What changes the source afterwards has to wait for it (`record_event` here, `wait_event` there).
        """

    @abstractmethod
    def record_event(self) -> Any:
        """Return an event that comes when everything that is enqueued now is done."""

    @abstractmethod
    def wait_event(self, event: Any) -> None:
        """Let what is enqueued from now on wait for an event of another device."""

    @abstractmethod
    def fill(self, target: DeviceArray, byte: int) -> None:
        """Enqueue setting every byte of it."""

    @abstractmethod
    def enqueue(self, fn: StreamFn) -> None:
        """Let `fn` launch something on the stream."""

    @abstractmethod
    def load_kernel(self, name: str, ptx: bytes, shared_bytes: int = 0) -> Any:
        """The kernel of that name in a PTX module, ready for `launch`; `BackendError` with the driver's
        words where it is refused.
        """

    @abstractmethod
    def launch(
        self, kernel: Any, grid: Sequence[int], threads: int, shared_bytes: int, arguments: Sequence[Any]
    ) -> None:
        """Enqueue a kernel: arguments are addresses as `int`, anything else a numpy scalar of its exact
        type.
        """

    @abstractmethod
    def capture(self, work: Enqueue) -> Graph:
        """The graph of this work, which is not run."""

    @abstractmethod
    def capture_loop(self, work: Enqueue, last: Callable[[int], None]) -> Graph:
        """The graph of a WHILE node around this work, which is not run.

        `last` ends the body and is called with the handle of the condition. The loop runs once, and again as
        long as the kernel of `last` sets the condition. `work` sees the stream on which it runs uncaptured:
        what a library keeps per stream is there already.
        """

    @abstractmethod
    def wait(self) -> None:
        """Wait until all enqueued work is done."""

    @abstractmethod
    def timed(self, work: Enqueue) -> float:
        """Enqueue this work, never in a capture, and wait for it: the seconds it took on the device."""

    @abstractmethod
    def exchange(self, array: DeviceArray) -> Any:
        """The bytes of an array as an object that `torch.as_tensor` takes without a copy."""

    @abstractmethod
    def close(self) -> None:
        """Let go of the stream; never raises."""


def aligned(nbytes: int) -> int:
    """The size in bytes rounded up to where the next tensor may start."""
    return -(-nbytes // ALIGNMENT) * ALIGNMENT
