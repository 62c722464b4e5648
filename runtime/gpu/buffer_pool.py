"""Static buffers that context states live in, given out and taken back; evicted where memory is short."""

from collections.abc import Callable
from typing import Any, TypeVar

from ttc.runtime.gpu.closing import close_all
from ttc.runtime.gpu.device import Scope
from ttc.runtime.gpu.device_runtime import DeviceRuntime
from ttc.runtime.gpu.eviction import evict_until_fits
from ttc.runtime.gpu.static_buffers import StaticBuffers
from ttc.runtime.interface.state import ContextState

__all__ = ["BufferHandle", "BufferPool", "StateTensors", "tensors_of"]

T = TypeVar("T")


class BufferHandle:
    """Buffers in use; dropping the last reference gives them back."""

    def __init__(self, buffers: StaticBuffers, take_back: Callable[[StaticBuffers], None]) -> None:
        self.buffers, self._take_back = buffers, take_back

    def tensors(self) -> "StateTensors":
        """Return the state's tensors as a context state holds them."""
        return StateTensors(self)

    def __del__(self) -> None:
        self._take_back(self.buffers)


class StateTensors(dict[str, Any]):
    """Name → tensor of the state in these buffers, which stay in use as long as this lives.

    Attributes:
        handle: of the buffers.
        replica: the same state on the denoiser's GPU, where that is another one.
    """

    def __init__(self, handle: BufferHandle) -> None:
        super().__init__(handle.buffers.state)
        self.handle = handle
        self.replica: ContextState | None = None


def tensors_of(state: ContextState) -> StateTensors:
    """Return the tensors of a state that a pool's buffers hold."""
    assert isinstance(state.tensors, StateTensors), "a state of another backend"
    return state.tensors


class BufferPool:
    """The buffers of one device. The caller holds the runtime's lock."""

    def __init__(self, runtime: DeviceRuntime) -> None:
        self._runtime = runtime
        self._idle: list[StaticBuffers] = []
        runtime.graphs.make_room = self._make_room

    def lease(self, batch: int, capacity: int) -> BufferHandle:
        """Return buffers of this size: idle ones, or new ones, for which idle ones make room.

        Raises:
            BackendError: the backend is closed.
            DeviceMemoryError: there is no room, even without the idle buffers.
        """
        self._runtime.check_open()
        self._runtime.dropped.take_back()
        for i, buffers in enumerate(self._idle):
            if (buffers.batch, buffers.capacity) == (batch, capacity):
                return BufferHandle(self._idle.pop(i), self._take_back)
        return BufferHandle(self.evict_until_fits(lambda: self._make(batch, capacity)), self._take_back)

    def buffers_of(self, state: ContextState) -> StaticBuffers:
        """Return the buffers that a state lives in. Raises `BackendError` once the backend is closed."""
        self._runtime.check_open()
        return tensors_of(state).handle.buffers

    def evict_until_fits(self, make: Callable[[], T]) -> T:
        """Return what `make` returns, as the function of this name; idle buffers are given up for it."""
        return evict_until_fits(make, self._make_room)

    def _make_room(self) -> bool:
        """Give back what the executor does not use, else the buffers that were idle longest."""
        self._runtime.device.wait()
        made = self._runtime.executor.trim()
        if not made and self._idle:
            self._idle.pop(0).close()
            made = True
        self._runtime.graphs.room_made += made
        return made

    def close(self) -> None:
        """Give back the idle buffers; those in use follow when they are dropped. Never raises."""
        close_all([buffers.close for buffers in self._idle])
        self._idle.clear()

    def _make(self, batch: int, capacity: int) -> StaticBuffers:
        scope = Scope(self._runtime.device)
        with scope.all_or_nothing():
            return StaticBuffers(self._runtime, scope, batch, capacity)

    def _take_back(self, buffers: StaticBuffers) -> None:
        """A state was dropped: its buffers wait for the next one."""
        self._runtime.dropped.drop(
            lambda: buffers.close() if self._runtime.closed else self._idle.append(buffers)
        )
