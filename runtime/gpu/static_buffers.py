"""All buffers of B rows with capacity C at fixed addresses: the state, and the calls over it by length.

A context state lives in such buffers for as long as somebody holds it; then they wait for the next state of
their size (`buffer_pool`). So the CUDA graphs captured over their addresses serve every later generation of
that size.
"""

from ttc.runtime.gpu.call_buffers import AdvanceBuffers, BlockBuffers, ContextBuffers
from ttc.runtime.gpu.closing import close_all
from ttc.runtime.gpu.device import Scope
from ttc.runtime.gpu.device_runtime import DeviceRuntime
from ttc.runtime.gpu.state_buffers import StateBuffers

__all__ = ["StaticBuffers"]


class StaticBuffers(StateBuffers):
    """The state, and buffers of calls over it, made when they are first asked for."""

    def __init__(self, runtime: DeviceRuntime, scope: Scope, batch: int, capacity: int) -> None:
        super().__init__(runtime, scope, batch, capacity)
        self._contexts: dict[tuple[int, int, bool], ContextBuffers] = {}
        self._blocks: dict[int, BlockBuffers] = {}
        self._advances: dict[int, AdvanceBuffers] = {}

    def context(self, length: int, positions: int, save: bool) -> ContextBuffers:
        """Return what a context call over L tokens with logits at R positions needs, one that leaves what
        `advance` needs or, where the executor has the choice, not.
        """
        save = save or not self.runtime.executor.saves_on_demand
        key = (length, positions, save)
        if key not in self._contexts:
            if save:
                self.saved(length)
            self.new_kv(length)
            with self.scope.all_or_nothing():
                self._contexts[key] = ContextBuffers(self, length, positions, save)
        return self._contexts[key]

    def block(self, length: int) -> BlockBuffers:
        """Return what denoising a block of L tokens needs."""
        if length not in self._blocks:
            with self.scope.all_or_nothing():
                self._blocks[length] = BlockBuffers(self, length)
        return self._blocks[length]

    def advance(self, length: int) -> AdvanceBuffers:
        """Return what moving the state over saved inputs of L tokens needs."""
        if length not in self._advances:
            with self.scope.all_or_nothing():
                self._advances[length] = AdvanceBuffers(self, length)
        return self._advances[length]

    def close(self) -> None:
        """Give back graphs and memory; nothing may be running on them. Never raises."""
        close_all(call.close for call in self._contexts.values())
        close_all(call.close for call in self._advances.values())
        close_all(call.close for call in self._blocks.values())
        super().close()
        # Pinned memory goes with its last reference, and work refers to these buffers.
        for made in (self._contexts, self._blocks, self._advances):
            made.clear()
