"""What a call is about: rows with their state at fixed addresses, and room for what it leaves."""

from abc import ABC, abstractmethod
from collections.abc import Mapping

from ttc.runtime.gpu.device import DeviceArray, Enqueue, Scope
from ttc.runtime.gpu.device_runtime import DeviceRuntime
from ttc.runtime.gpu.executor import Specs
from ttc.runtime.gpu.packed_buffer import PackedBuffer
from ttc.runtime.gpu.sampling import bind_sampling

__all__ = ["CallPlace"]


class CallPlace(ABC):
    """B rows that a call is about.

    Attributes:
        runtime: what the backend's parts share.
        scope: memory of what is made for calls over these rows.
        batch: B.
        state: name → tensor of the state.
        new_state: name → Mamba's new state, for an executor that does not write over the old one.
        placement: inputs of every call, beside those of the graphs, that say where in `state` the rows lie.
    """

    runtime: DeviceRuntime
    scope: Scope
    batch: int
    state: dict[str, DeviceArray]
    new_state: dict[str, DeviceArray]
    placement: Specs

    @property
    @abstractmethod
    def mamba(self) -> dict[str, DeviceArray]:
        """The part of the state that `advance` moves."""

    @abstractmethod
    def logits(self, positions: int) -> DeviceArray:
        """Return room for logits (B, positions, V), of the executor's `logits_dtype`."""

    @abstractmethod
    def saved(self, length: int) -> dict[str, DeviceArray]:
        """Return what context calls over L tokens leave for `advance`: name → (B, L, …)."""

    @abstractmethod
    def new_kv(self, length: int) -> dict[str, DeviceArray]:
        """Return where context calls over L tokens put their keys and values; empty where the executor writes
        them into the state itself.
        """

    @abstractmethod
    def commit(self, inputs: PackedBuffer, length: int) -> None:
        """Enqueue making the new state of a context call over L tokens the state; inputs: of the call."""

    @abstractmethod
    def commit_mamba(self) -> None:
        """Enqueue making Mamba's new state the state."""

    @abstractmethod
    def sizes(self, length: int, positions: int = 1) -> dict[str, int]:
        """Return the letters of the graphs' shapes in numbers; R is for logit positions."""

    def bind_sampling(
        self, inputs: PackedBuffer, logits: DeviceArray, outputs: PackedBuffer, sizes: Mapping[str, int]
    ) -> Enqueue:
        """Return the work that samples tokens from logits (B, R, V); none where the device cannot."""
        if self.runtime.sampling_problem is not None:
            return lambda: None
        return bind_sampling(self.runtime.executor, self.scope, inputs, logits, outputs, sizes)
