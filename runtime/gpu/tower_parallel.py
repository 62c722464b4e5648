"""Tower parallelism: the context tower on one GPU, the denoiser on another.

The context tower's GPU owns the state; a replica of it on the denoiser's GPU follows. Whatever
moves the state is followed by a copy of what it changed, over the link between the two: the Mamba state, and
the new keys and values, which a kernel there appends to the caches. Whole states are copied only where rows
leave the batch, or a state comes from the host.

The copy is ordered by events alone: the denoiser's stream waits for the context tower, not the host, which
takes in what the context tower gave and prepares the next block meanwhile. Only what next changes the state
waits for the copy.

Nothing here has run on GPUs; the tests run it over two fake devices that share no memory.
"""

from collections.abc import Callable, Mapping, Sequence
from typing import Any

import numpy as np

from ttc.runtime.gpu.backend import DeviceBackend, warm_up_context
from ttc.runtime.gpu.buffer_pool import tensors_of
from ttc.runtime.gpu.closing import close_all
from ttc.runtime.gpu.device import DeviceArray
from ttc.runtime.gpu.lengths import padded_length
from ttc.runtime.gpu.rows import RowsOfWholes
from ttc.runtime.gpu.sampling import ContextLogits
from ttc.runtime.gpu.static_buffers import StaticBuffers
from ttc.runtime.interface.backend import (
    BlockInputs,
    ContextCall,
    Floats,
    Ints,
    Limits,
    StepInputs,
    StepOutputs,
)
from ttc.runtime.interface.sampling import SampledTokens, SamplingParams
from ttc.runtime.interface.state import ContextState

__all__ = ["TowerParallelBackend", "load_tower_parallel"]


def load_tower_parallel(load: Callable[[int], DeviceBackend]) -> "TowerParallelBackend":
    """Load both backends, of the context tower (`load(0)`) and of the denoiser (`load(1)`), or neither."""
    context = load(0)
    try:
        return TowerParallelBackend(context, load(1))
    except BaseException:
        context.close()
        raise


class TowerParallelBackend(RowsOfWholes):
    """A tower on each of two GPUs.

    Args:
        context: backend of the bundle that has the context tower.
        denoiser: backend of the same bundle that has the denoiser. The executors of both do not write the
            state in place.
    """

    def __init__(self, context: DeviceBackend, denoiser: DeviceBackend) -> None:
        self.name, self.config = context.name, context.config
        self._context, self._denoiser = context, denoiser
        # A copy of the state uses both streams: nobody may capture on either meanwhile.
        denoiser.runtime.dropped = context.runtime.dropped
        self._lock = context.runtime.lock
        problem = denoiser.device.open_to(context.device)
        if problem is not None:
            denoiser.runtime.note(f"the state goes from GPU to GPU by way of the host, because {problem}")
        self._sent: Any = None  # event of the last copy

    @property
    def notes(self) -> Sequence[str]:  # type: ignore[override]  # they grow when a mode falls back
        """What is not as asked, on either GPU."""
        return tuple(dict.fromkeys((*self._context.notes, *self._denoiser.notes)))

    @property
    def graph_level(self) -> int:  # type: ignore[override]  # it may fall
        """The mode in force, as a level; blocks are the denoiser's."""
        return self._denoiser.graph_level

    @property
    def device_name(self) -> str:
        return f"{self._context.device_name},{self._denoiser.device_name}"

    @property
    def limits(self) -> Limits | None:  # type: ignore[override]  # the executor's
        """Sizes that can be computed."""
        return self._context.limits

    @property
    def skips_logits(self) -> bool:  # type: ignore[override]  # the context tower's
        return self._context.skips_logits

    def rows_of(self, state: ContextState) -> int:
        return self._context.rows_of(state)

    def new_whole(self, batch: int, capacity: int) -> ContextState:
        with self._lock:
            self._await_sent()
            return self._paired(self._context.new_whole(batch, capacity))

    def context_whole(
        self,
        state: ContextState,
        input_ids: Ints,
        commit_len: Ints,
        logit_positions: Ints,
        save: bool = False,
    ) -> ContextCall:
        with self._lock:
            before = state.lengths.copy()
            self._make_ready(state, input_ids.shape[1])
            return self._context.context_whole(
                state,
                input_ids,
                commit_len,
                logit_positions,
                save,
                then=lambda length: self._send_block(state, length, before),
            )

    def sample_next_whole(
        self,
        state: ContextState,
        input_ids: Ints,
        commit_len: Ints,
        logit_positions: Ints,
        how: SamplingParams,
        save: bool = False,
    ) -> tuple[SampledTokens, Any]:
        with self._lock:
            before = state.lengths.copy()
            self._make_ready(state, input_ids.shape[1])
            return self._context.sample_next_whole(
                state,
                input_ids,
                commit_len,
                logit_positions,
                how,
                save,
                then=lambda length: self._send_block(state, length, before),
            )

    def advance_whole(self, state: ContextState, saved: Any, commit_len: Ints) -> None:
        with self._lock:
            self._await_sent()
            self._context.advance_whole(state, saved, commit_len)
            source, target = self._buffers(state)
            self._send(source.changed_mamba(), target.changed_mamba())

    def denoise_whole(self, state: ContextState, block_ids: Ints, t: Floats) -> Any:
        return self._denoiser.denoise_whole(self._replica(state), block_ids, t)

    def denoise_step_whole(self, state: ContextState, t: Floats, inputs: StepInputs) -> StepOutputs:
        return self._denoiser.denoise_step_whole(self._replica(state), t, inputs)

    def fetch_whole(self, logits: Any) -> Floats:
        return self._where(logits).fetch_whole(logits)

    def sample_whole(self, logits: Any, how: SamplingParams) -> SampledTokens | None:
        return self._where(logits).sample_whole(logits, how)

    def step_whole(self, logits: Any, inputs: StepInputs) -> StepOutputs:
        return self._denoiser.step_whole(logits, inputs)

    def fill_whole(self, state: ContextState, inputs: BlockInputs) -> Sequence[StepOutputs] | None:
        return self._denoiser.fill_whole(self._replica(state), inputs)

    def call_length(self, length: int) -> int:
        return self._context.call_length(length)

    def clear_rows(self, state: ContextState, rows: Ints) -> None:
        with self._lock:
            self._await_sent()
            self._denoiser.clear_rows(self._replica(state), rows)
            self._context.clear_rows(state, rows)

    def copy_row(self, source: ContextState, row: int, target: ContextState, to: int) -> None:
        with self._lock:
            self._await_sent()
            self._denoiser.copy_row(self._replica(source), row, self._replica(target), to)
            self._context.copy_row(source, row, target, to)

    def read_state(self, state: ContextState, rows: Ints | None = None) -> dict[str, Floats]:
        return self._context.read_state(state, rows)

    def write_state(self, capacity: int, lengths: Ints, tensors: Mapping[str, Any]) -> ContextState:
        with self._lock:
            self._await_sent()
            state = self._paired(self._context.write_state(capacity, lengths, tensors))
            self._send_whole(state)
            return state

    def warm_up(self, batch: int, capacity: int, block_size: int, chunk: int) -> None:
        warm_up_context(self, batch, capacity, block_size, chunk)
        self._denoiser.warm_up_block(batch, capacity, block_size)

    def close(self) -> None:
        with self._lock:
            # The last copy may still read what closing the context tower's backend gives back.
            close_all([self._await_sent, self._context.close, self._denoiser.close])

    def _where(self, logits: Any) -> DeviceBackend:
        """Return the backend that computed these logits."""
        return self._context if isinstance(logits, ContextLogits) else self._denoiser

    def _paired(self, state: ContextState) -> ContextState:
        """Return the state with its replica on the denoiser's GPU, which lives as long as it does."""
        replica = self._denoiser.new_whole(self._context.rows_of(state), state.capacity)
        tensors_of(state).replica = replica
        return state

    def _make_ready(self, state: ContextState, tokens: int) -> None:
        """Before a context call: what can fail for want of memory on the denoiser's GPU fails now, while both
        GPUs have the same state.
        """
        self._await_sent()
        room = state.capacity - int(np.max(state.lengths))
        length = padded_length(tokens, room, self.limits)
        self._denoiser.reserve_new_kv(self._replica(state), length)

    def _send_block(self, state: ContextState, length: int, before: Ints) -> None:
        """Enqueue bringing the replica up to a context call over L tokens; before: (B,) lengths then."""
        source, target = self._buffers(state)
        new_kv = source.changed_kv(length)
        self._send([*source.changed_mamba(), *new_kv], [*target.changed_mamba(), *target.changed_kv(length)])
        if new_kv:
            target.append_kv(length, before)

    def _send_whole(self, state: ContextState) -> None:
        source, target = self._buffers(state)
        self._send([source.whole_state], [target.whole_state])

    def _send(self, source: Sequence[DeviceArray], target: Sequence[DeviceArray]) -> None:
        """Enqueue copies from the context tower's GPU to the denoiser's."""
        for there, here in zip(source, target, strict=True):
            self._denoiser.device.copy_from(here, self._context.device, there)
        self._sent = self._denoiser.device.record_event()

    def _await_sent(self) -> None:
        """Let what the context tower does next wait for the last copy, which reads what it will change: the
        same state, or one whose buffers were that state's.
        """
        if self._sent is not None:
            self._context.device.wait_event(self._sent)
            self._sent = None

    def _buffers(self, state: ContextState) -> tuple[StaticBuffers, StaticBuffers]:
        return self._context.buffers_of(state), self._denoiser.buffers_of(self._replica(state))

    @staticmethod
    def _replica(state: ContextState) -> ContextState:
        """Return the replica, at the state's lengths, which a caller may have set back."""
        replica = tensors_of(state).replica
        assert replica is not None, "a state of another backend"
        replica.lengths = state.lengths
        return replica
