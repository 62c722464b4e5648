"""Buffers and graphs of calls over the rows of a pool, by size; whoever calls has them to himself.

A call has small inputs and outputs of its own; logits, and what is saved for `advance`, are large, so all
calls of a *lane* share the memory for the former, and those that read equally many tokens the memory for the
latter. What a call left there counts until the next call on the same state. Meanwhile calls on another state
have a lane of their own: there is a second one only where two threads generate, and one has still to look at
what a call left.
"""

import weakref
from collections.abc import Callable
from typing import Any, TypeVar

import numpy as np

from ttc.runtime.gpu.call_buffers import AdvanceBuffers, BlockBuffers, ContextBuffers
from ttc.runtime.gpu.call_place import CallPlace
from ttc.runtime.gpu.closing import close_all
from ttc.runtime.gpu.device import DeviceArray, Memory, Scope
from ttc.runtime.gpu.device_runtime import DeviceRuntime
from ttc.runtime.gpu.executor import POOL_INPUTS, saved_specs
from ttc.runtime.gpu.packed_buffer import PackedBuffer, pack
from ttc.runtime.gpu.pool_memory import PoolMemory
from ttc.runtime.interface.backend import Ints

__all__ = ["Lane", "Lanes", "LeftLogits", "LeftSaved"]

Buffers = ContextBuffers | BlockBuffers | AdvanceBuffers
T = TypeVar("T", ContextBuffers, BlockBuffers, AdvanceBuffers)


def _nothing() -> None:
    """What a weak reference says when there is nothing any more."""


class LeftLogits:
    """Logits of a call in its lane, until the next call on the same state.

    Attributes:
        lane: where.
        call: the buffers.
        count: how many rows are meant, of those that were computed.
        positions: how many positions.
    """

    def __init__(self, lane: "Lane", call: ContextBuffers | BlockBuffers, count: int, positions: int) -> None:
        self.lane, self.call, self.count, self.positions = lane, call, count, positions


class LeftSaved:
    """What a context call left for `advance`.

    Attributes:
        lane: where.
        batch: rows that were computed.
        length: tokens that were read.
        rows: (n,) of the pool, in the order of the call.
    """

    def __init__(self, lane: "Lane", batch: int, length: int, rows: Ints) -> None:
        self.lane, self.batch, self.length, self.rows = lane, batch, length, rows


class Lane:
    """Buffers of calls over one pool, one call at a time.

    Args:
        width: M, the most pages that a row may have.
    """

    def __init__(self, runtime: DeviceRuntime, memory: PoolMemory, width: int) -> None:
        self.runtime, self.memory, self.width = runtime, memory, width
        self.scope = Scope(runtime.device)
        self._calls: dict[Any, tuple[Scope, Buffers]] = {}
        self._saved: dict[tuple[int, int], dict[str, DeviceArray]] = {}
        self.logits_memory = _SharedMemory(self.scope)
        self._saved_memory: dict[int, _SharedMemory] = {}
        self._logits: Callable[[], LeftLogits | None] = _nothing
        self._logits_of: Callable[[], object] = _nothing
        self._left: dict[int, Callable[[], LeftSaved | None]] = {}

    def context(self, batch: int, length: int, positions: int, save: bool) -> ContextBuffers:
        """Return what a context call over L tokens with logits at R positions needs."""
        key = "context", batch, length, positions, save
        return self._call(key, lambda place: ContextBuffers(place, length, positions, save))

    def block(self, batch: int, length: int) -> BlockBuffers:
        """Return what denoising a block of L tokens needs."""
        return self._call(("block", batch, length), lambda place: BlockBuffers(place, length))

    def advance(self, batch: int, length: int) -> AdvanceBuffers:
        """Return what moving the state over saved inputs of L tokens needs."""
        return self._call(("advance", batch, length), lambda place: AdvanceBuffers(place, length))

    def saved(self, batch: int, length: int) -> dict[str, DeviceArray]:
        """Return what context calls over B rows and L tokens leave for `advance`."""
        if (batch, length) not in self._saved:
            executor = self.runtime.executor
            specs = saved_specs(self.runtime.config, executor.compute_dtype, batch, length)
            memory = self._saved_memory.setdefault(length, _SharedMemory(self.scope))
            self._saved[batch, length] = pack(memory, specs, {})[1]
        return self._saved[batch, length]

    def leave_logits(self, logits: LeftLogits, owner: object) -> None:
        """Keep logits until `owner`'s next call, or until nobody has them any more."""
        self._logits, self._logits_of = weakref.ref(logits), weakref.ref(owner)

    def leave_saved(self, saved: LeftSaved) -> None:
        """Keep what was saved until it is advanced over, or nobody has it, or its rows are read again."""
        self._left[saved.length] = weakref.ref(saved)

    def forget_saved(self, saved: LeftSaved) -> None:
        """Take back what was saved."""
        self._left.pop(saved.length, None)

    def is_free(self, owner: object | None, saves: tuple[int, Ints] | None) -> bool:
        """Return whether a call may use the lane.

        Args:
            owner: whose state the call is about; None for nobody's.
            saves: if it saves something, how many tokens it reads, and its rows (n,) of the pool.
        """
        if self._logits() is not None and self._logits_of() is not owner:
            return False
        if saves is None:
            return True
        length, rows = saves
        left = self._left.get(length, _nothing)()
        return left is None or bool(np.isin(left.rows, rows).any())

    def begin(self) -> None:
        """A call is about to use the lane: the logits of the one before are gone."""
        self._logits = self._logits_of = _nothing

    @property
    def held(self) -> bool:
        """Whether somebody may still ask for something that a call left here."""
        return self._logits() is not None or any(left() is not None for left in self._left.values())

    def has(self, call: Buffers | None) -> bool:
        """Return whether these buffers are of this lane."""
        return any(mine is call for _, mine in self._calls.values())

    def drop_oldest(self, keep: Buffers | None, *, other_rows: bool = False) -> bool:
        """Give back the buffers of the call that was used longest ago, but for one; return whether there were
        any.

        other_rows: of calls over another number of rows than that one only.
        """
        rows = next((key[1] for key, (_, call) in self._calls.items() if call is keep), None)
        for key, (scope, call) in self._calls.items():
            if call is not keep and not (other_rows and rows in (None, key[1])):
                del self._calls[key]
                close_all([call.close, scope.close])
                return True
        return False

    def close(self) -> None:
        """Give back graphs and memory; nothing may be running on them. Never raises."""
        while self.drop_oldest(None):
            pass
        self._saved.clear()
        self.scope.close()

    def _call(self, key: Any, make: Callable[[CallPlace], T]) -> T:
        """Return the buffers of this key, which are the last used now; made if need be."""
        found = self._calls.pop(key, None)
        if found is None:
            scope = Scope(self.runtime.device)
            with scope.all_or_nothing():
                found = scope, make(_PoolPlace(self, scope, key[1]))
        self._calls[key] = found
        made: Any = found[1]
        return made  # type: ignore[no-any-return]


class Lanes:
    """The lanes over one pool."""

    def __init__(self, runtime: DeviceRuntime) -> None:
        self._runtime = runtime
        self._lanes: list[Lane] = []
        self._retired: list[Lane] = []

    def free(
        self, memory: PoolMemory, width: int, owner: object | None, saves: tuple[int, Ints] | None
    ) -> Lane:
        """Return a lane that a call may use, see `Lane.is_free`; a new one if need be."""
        self._sweep()
        for lane in self._lanes:
            if lane.is_free(owner, saves):
                lane.begin()
                return lane
        self._lanes.append(Lane(self._runtime, memory, width))
        return self._lanes[-1]

    def retire(self) -> None:
        """The pool has moved: no call may use these lanes any more. What calls left there stays until nobody
        asks for it.
        """
        self._retired += self._lanes
        self._lanes = []
        self._sweep()

    def make_room(self, keep: Buffers | None, *, other_rows: bool = False) -> bool:
        """Give back a lane that is not in use, else the buffers of a call; return whether there were any.

        Args:
            keep: buffers that are in use.
            other_rows: as `Lane.drop_oldest`.
        """
        self._sweep()
        for i, lane in enumerate(self._lanes[1:], 1):
            if not lane.held and not lane.has(keep):
                self._lanes.pop(i).close()
                return True
        return any(lane.drop_oldest(keep, other_rows=other_rows) for lane in self._lanes if not lane.held)

    def close(self) -> None:
        """Give everything back. Never raises."""
        close_all(lane.close for lane in (*self._lanes, *self._retired))
        self._lanes, self._retired = [], []

    def _sweep(self) -> None:
        done = [lane for lane in self._retired if not lane.held]
        if done:
            self._runtime.device.wait()
            close_all(lane.close for lane in done)
            self._retired = [lane for lane in self._retired if lane not in done]


class _SharedMemory:
    """One piece of memory that many calls use in turn; larger ones come beside it, since graphs know its
    address.
    """

    def __init__(self, scope: Scope) -> None:
        self._scope = scope
        self._memory: Memory | None = None

    def allocate(self, nbytes: int) -> Memory:
        """Return a piece of at least so many bytes, the one that there is if it will do."""
        if self._memory is None or self._memory.nbytes < nbytes:
            self._memory = self._scope.allocate(nbytes)
        return self._memory


class _PoolPlace(CallPlace):
    """B rows of the pool that the inputs of a call name."""

    def __init__(self, lane: Lane, scope: Scope, batch: int) -> None:
        self.runtime, self.scope, self.batch = lane.runtime, scope, batch
        self.state, self.new_state, self.placement = lane.memory.state, {}, POOL_INPUTS
        self._lane = lane

    @property
    def mamba(self) -> dict[str, DeviceArray]:
        return self._lane.memory.rows.tensors | self._lane.memory.rows.stacks

    def logits(self, positions: int) -> DeviceArray:
        shape = (self.batch, positions, self.runtime.config.vocab_size)
        specs = {"logits": (self.runtime.executor.logits_dtype, shape)}
        return pack(self._lane.logits_memory, specs, {})[1]["logits"]

    def saved(self, length: int) -> dict[str, DeviceArray]:
        return self._lane.saved(self.batch, length)

    def new_kv(self, length: int) -> dict[str, DeviceArray]:
        return {}

    def commit(self, inputs: PackedBuffer, length: int) -> None:
        """The executor has written over the old state."""

    def commit_mamba(self) -> None:
        """The executor has written over the old state."""

    def sizes(self, length: int, positions: int = 1) -> dict[str, int]:
        return {"B": self.batch, "L": length, "R": positions, "M": self._lane.width}
