"""One GPU as the backends see it: memory with fixed addresses, one stream of work, graphs made of that work.

Everything put on the stream goes through `enqueue`, `copy`, `fill` or `launch`. These are the only calls that
a capture can record, and the only ones that a test has to fake. Outside a capture, such an operation runs
when its turn comes; inside one it becomes a node of the graph and does not run.
"""

import contextlib
from abc import ABC, abstractmethod
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import numpy.typing as npt

from ttc.base.dtypes import stored_bytes
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
        """Give the memory back; a second call does nothing."""
        if self._free is not None:
            free, self._free = self._free, None
            free()


@dataclass(frozen=True, slots=True)
class DeviceArray:
    """A C-contiguous tensor in device memory.

    Attributes:
        address: of its first byte.
        dtype: a name of `ttc.base.dtypes`; of those with four bits two numbers lie in a byte.
    """

    memory: Memory = field(repr=False, compare=False)
    address: int
    dtype: str
    shape: tuple[int, ...]

    @classmethod
    def at(cls, memory: Memory, offset: int, dtype: str, shape: Sequence[int]) -> "DeviceArray":
        """Return the tensor that starts `offset` bytes into the memory."""
        made = cls(memory, memory.address + offset, dtype, tuple(shape))
        assert 0 <= offset <= memory.nbytes - made.nbytes, f"{made} reaches past its memory"
        return made

    @property
    def nbytes(self) -> int:
        return stored_bytes(self.dtype, self.shape)

    def part(self, first: int, count: int) -> "DeviceArray":
        """Return `count` entries of the first axis from `first` on."""
        entry_bytes = self.nbytes // self.shape[0] if self.shape[0] else 0
        offset = self.address - self.memory.address + first * entry_bytes
        return DeviceArray.at(self.memory, offset, self.dtype, (count, *self.shape[1:]))


class Scope:
    """Memory of one device that is given back together.

    Attributes:
        kept: whatever else is to go with it.
    """

    def __init__(self, device: "Device") -> None:
        self.device = device
        self._blocks: list[Memory] = []
        self.kept: dict[Any, Any] = {}

    def allocate(self, nbytes: int) -> Memory:
        """Return a block that lives as long as the scope. Raises as `Device.allocate`."""
        self._blocks.append(self.device.allocate(max(nbytes, 1)))
        return self._blocks[-1]

    def array(self, dtype: str, shape: Sequence[int]) -> DeviceArray:
        """Return a tensor in a block of its own, content undefined."""
        return DeviceArray.at(self.allocate(stored_bytes(dtype, shape)), 0, dtype, shape)

    @contextlib.contextmanager
    def all_or_nothing(self) -> Iterator[None]:
        """Give back at once what is allocated inside, and let go of what refers to it, if the body fails."""
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
        """Put the graph on the device's stream."""

    @abstractmethod
    def close(self) -> None:
        """Let go of the graph."""


class Device(ABC):
    """One GPU, used by one thread at a time.

    Attributes:
        name: "cuda:0".
        compute_capability: "9.0".
        loop_problem: why a graph with a WHILE node cannot be made here; None where it can.
        launches: graphs and operations that the host put on the stream since the start (copies between host
            and device apart); benchmarks count them.
        waits: times that the host waited since the start.

    Every call raises `BackendError` when CUDA reports an error, and from then on where that is sticky.
    """

    name: str
    compute_capability: str
    loop_problem: str | None
    launches: int
    waits: int

    @property
    @abstractmethod
    def capturing(self) -> bool:
        """Whether what is enqueued now goes into a graph and does not run."""

    @abstractmethod
    def activate(self) -> None:
        """Make this GPU the calling thread's, for libraries that take the current one."""

    @abstractmethod
    def free_bytes(self) -> tuple[int, int]:
        """Return the free and the total memory in bytes."""

    @abstractmethod
    def allocate(self, nbytes: int) -> Memory:
        """Return memory with undefined content. Raises `DeviceMemoryError` where there is not enough."""

    @abstractmethod
    def pinned(self, nbytes: int) -> npt.NDArray[np.uint8]:
        """Return pinned host memory, which the device reads and writes directly."""

    @abstractmethod
    def upload(self, target: DeviceArray, source: npt.NDArray[np.uint8]) -> None:
        """Enqueue a copy from pinned memory, whose content must stay until it is done; never captured."""

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
    def open_to(self, other: "Device") -> str | None:
        """Let copies from another device come directly, not by way of the host; return why they cannot, or
        None.
        """

    @abstractmethod
    def record_event(self) -> Any:
        """Return an event that comes when everything that is enqueued now is done."""

    @abstractmethod
    def wait_event(self, event: Any) -> None:
        """Let what is enqueued from now on wait for an event of another device."""

    @abstractmethod
    def wait_for(self, event: Any) -> None:
        """Wait, on the host, until an event of this device has come."""

    @abstractmethod
    def fill(self, target: DeviceArray, byte: int) -> None:
        """Enqueue setting every byte of the target."""

    @abstractmethod
    def enqueue(self, fn: StreamFn) -> None:
        """Let `fn` launch something on the stream."""

    @abstractmethod
    def load_kernel(self, name: str, code: bytes, shared_bytes: int = 0) -> Any:
        """Return the kernel of that name in a module, PTX or cubin, ready for `launch`.

        Raises `BackendError` with the driver's words where it is refused.
        """

    @abstractmethod
    def launch(
        self, kernel: Any, grid: Sequence[int], threads: int, shared_bytes: int, arguments: Sequence[Any]
    ) -> None:
        """Enqueue a kernel.

        Args:
            grid: programs along three axes.
            threads: of each program.
            arguments: addresses as `int`, anything else a numpy scalar of its exact type.
        """

    @abstractmethod
    def capture(self, work: Enqueue) -> Graph:
        """Return the graph of this work, which is not run."""

    @abstractmethod
    def capture_loop(self, work: Enqueue, last: Callable[[int], None]) -> Graph:
        """Return the graph of a WHILE node around this work, which is not run.

        `last` ends the body and is called with the handle of the condition. The loop runs once, and again as
        long as the kernel of `last` sets the condition. `work` sees the stream on which it runs uncaptured:
        what a library keeps per stream is there already.
        """

    @abstractmethod
    def wait(self) -> None:
        """Wait until all enqueued work is done."""

    @abstractmethod
    def timed(self, work: Enqueue) -> float:
        """Enqueue this work, never in a capture, wait for it, and return its seconds on the device."""

    @abstractmethod
    def exchange(self, array: DeviceArray) -> Any:
        """Return the bytes of an array as an object that `torch.as_tensor` takes without a copy."""

    @abstractmethod
    def close(self) -> None:
        """Let go of the stream; never raises."""


def aligned(nbytes: int) -> int:
    """Return the size in bytes rounded up to where the next tensor may start."""
    return -(-nbytes // ALIGNMENT) * ALIGNMENT
