"""The two towers on two GPUs: the context tower on one, the denoiser on the other.

The context tower's GPU owns the state. Whatever moves it (a prompt, a finished block, a token) is followed by
a copy of the whole state to a slot of the same size on the denoiser's GPU, over the link between the two. The
copy is ordered by events alone: the host reads the context tower's logits and prepares the next block
meanwhile, and the denoiser's stream waits, not the host.

Nothing here has run on GPUs; the tests run it over two devices that pretend and share no memory.
"""

from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from ttc.runtime.backends.base import (
    Backend,
    BlockInputs,
    ContextCall,
    Floats,
    Ints,
    Limits,
    StepInputs,
    StepOutputs,
)
from ttc.runtime.gpu.backend import DeviceBackend
from ttc.runtime.gpu.closing import close_all
from ttc.runtime.state import ContextState

__all__ = ["TwoDevices"]


class TwoDevices(Backend):
    """Args: backends of the same bundle, one that has the context tower and one that has the denoiser."""

    def __init__(self, context: DeviceBackend, denoiser: DeviceBackend) -> None:
        self.name, self.config = context.name, context.config
        self._context, self._denoiser = context, denoiser
        # A copy of the state uses both streams: nobody may capture on either meanwhile.
        self._lock = denoiser.lock = context.lock

    @property
    def notes(self) -> Sequence[str]:  # type: ignore[override]  # they grow when a level falls back
        """What is not as asked, on either GPU."""
        return tuple(dict.fromkeys((*self._context.notes, *self._denoiser.notes)))

    @property
    def graph_level(self) -> int:  # type: ignore[override]  # it may fall
        """The level in force; blocks are the denoiser's."""
        return self._denoiser.graph_level

    @property
    def limits(self) -> Limits | None:  # type: ignore[override]  # the executor's
        """Sizes that can be computed."""
        return self._context.limits

    def new_state(self, batch: int, capacity: int) -> ContextState:
        return self._paired(self._context.new_state(batch, capacity))

    def context(
        self,
        state: ContextState,
        input_ids: Ints,
        commit_len: Ints,
        logit_positions: Ints,
        save: bool = False,
    ) -> ContextCall:
        with self._lock:
            call = self._context.context(
                state, input_ids, commit_len, logit_positions, save, then=lambda: self._send(state)
            )
            self._twin(state).lengths = state.lengths
            return call

    def advance(self, state: ContextState, saved: Any, commit_len: Ints) -> None:
        with self._lock:
            self._context.advance(state, saved, commit_len)
            self._send(state)
            self._twin(state).lengths = state.lengths

    def denoise(self, state: ContextState, block_ids: Ints, t: Floats) -> Any:
        return self._denoiser.denoise(self._twin(state), block_ids, t)

    def fetch(self, logits: Any) -> Floats:
        return self._denoiser.fetch(logits)

    def step(self, logits: Any, inputs: StepInputs) -> StepOutputs:
        return self._denoiser.step(logits, inputs)

    def fill_block(self, state: ContextState, inputs: BlockInputs) -> Iterator[StepOutputs]:
        return self._denoiser.fill_block(self._twin(state), inputs)

    def select(self, state: ContextState, rows: Ints) -> ContextState:
        with self._lock:
            chosen = self._paired(self._context.select(state, rows))
            self._send(chosen)
            return chosen

    def read_state(self, state: ContextState) -> dict[str, Floats]:
        return self._context.read_state(state)

    def write_state(self, capacity: int, lengths: Ints, tensors: Mapping[str, Any]) -> ContextState:
        with self._lock:
            state = self._paired(self._context.write_state(capacity, lengths, tensors))
            self._send(state)
            return state

    def warm_up(self, batch: int, capacity: int, block_size: int, chunk: int) -> None:
        self._context.warm_up_context(batch, capacity, block_size, chunk)
        self._denoiser.warm_up_block(batch, capacity, block_size)

    def close(self) -> None:
        close_all([self._context.close, self._denoiser.close])

    def _paired(self, state: ContextState) -> ContextState:
        """The state with its twin on the denoiser's GPU, which lives as long as it does."""
        twin = self._denoiser.new_state(state.batch, state.capacity)
        twin.lengths = state.lengths
        state.tensors.twin = twin  # type: ignore[attr-defined]  # of the mapping a device backend makes
        return state

    def _send(self, state: ContextState) -> None:
        """Enqueue the copy of the state to its twin."""
        target = self._denoiser.whole_state(self._twin(state))
        source = self._context.whole_state(state)
        self._denoiser.device.receive(target, self._context.device, source)

    @staticmethod
    def _twin(state: ContextState) -> ContextState:
        twin: ContextState = state.tensors.twin  # type: ignore[attr-defined]  # as above
        return twin
