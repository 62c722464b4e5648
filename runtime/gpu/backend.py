"""The backend interface over one device: static buffers, the work that an executor binds, CUDA graphs.

Everything that a generation needs stays on the device; what crosses are the few small inputs of a call, one
copy in, and what the host must know, one copy out.
"""

from collections.abc import Callable, Mapping, Sequence
from typing import Any

import numpy as np
import numpy.typing as npt

from ttc.runtime.gpu.block_filler import fill_blocks
from ttc.runtime.gpu.buffer_pool import BufferPool
from ttc.runtime.gpu.call_buffers import BlockBuffers, ContextBuffers
from ttc.runtime.gpu.device import DeviceArray
from ttc.runtime.gpu.executor import DENOISER_INPUTS, STEP_INPUTS
from ttc.runtime.gpu.lengths import call_lengths, padded_length, widened
from ttc.runtime.gpu.over_device import OverDevice
from ttc.runtime.gpu.rows import RowsOfWholes
from ttc.runtime.gpu.sampling import SAMPLE_NOTHING, ContextLogits, sampled_tokens, sampling_inputs
from ttc.runtime.gpu.static_buffers import StaticBuffers
from ttc.runtime.interface.backend import (
    Backend,
    BlockInputs,
    ContextCall,
    Floats,
    Ints,
    StepInputs,
    StepOutputs,
)
from ttc.runtime.interface.sampling import LazySamples, SampledTokens, SamplingParams
from ttc.runtime.interface.state import ContextState

__all__ = ["DeviceBackend", "warm_up_context"]


class DeviceBackend(RowsOfWholes, OverDevice):
    """A bundle on one device, whose executor takes the state of a batch as whole tensors."""

    def __init__(self, *arguments: Any, **named: Any) -> None:
        """As `OverDevice`."""
        super().__init__(*arguments, **named)
        self._pool = BufferPool(self.runtime)

    def buffers_of(self, state: ContextState) -> StaticBuffers:
        """Return the buffers that a state lives in. Raises `BackendError` once the backend is closed."""
        return self._pool.buffers_of(state)

    def rows_of(self, state: ContextState) -> int:
        return self.buffers_of(state).batch

    def new_whole(self, batch: int, capacity: int) -> ContextState:
        with self.runtime.lock:
            handle = self._pool.lease(batch, capacity)
            handle.buffers.clear()
            return ContextState(capacity, np.zeros(batch, np.int32), handle.tensors())

    def context_whole(
        self,
        state: ContextState,
        input_ids: Ints,
        commit_len: Ints,
        logit_positions: Ints,
        save: bool = False,
        then: Callable[[int], None] | None = None,
    ) -> ContextCall:
        """Read a block, as `RowsOfWholes.context_whole`.

        `then(length)` runs after the call is enqueued and before the host waits, so that the copy of the
        state to a second GPU overlaps with this call; `length` is the number of tokens read, L after padding.
        """
        R = logit_positions.shape[1]
        with self.runtime.lock:
            inputs = input_ids, commit_len, logit_positions
            buffers, length = self._read(state, *inputs, SAMPLE_NOTHING, save, then)
            self.runtime.device.wait()  # the inputs may be written again
        logits = ContextLogits(buffers.logits, R) if R else None
        return ContextCall(logits, length if save else None)

    def sample_next_whole(
        self,
        state: ContextState,
        input_ids: Ints,
        commit_len: Ints,
        logit_positions: Ints,
        how: SamplingParams,
        save: bool = False,
        then: Callable[[int], None] | None = None,
    ) -> tuple[SampledTokens, Any]:
        """Read a block and sample in one launch; `then` as in `context_whole`."""
        if not self.samples_on_device(how):
            call = self.context_whole(state, input_ids, commit_len, logit_positions, save, then)
            return LazySamples(self.fetch_whole(call.logits), how), call.saved
        R = logit_positions.shape[1]
        with self.runtime.lock:
            sampling = sampling_inputs(how)
            inputs = input_ids, commit_len, logit_positions
            buffers, length = self._read(state, *inputs, sampling, save, then)
            samples = sampled_tokens(buffers.samples.download())
            return self.split(samples, buffers.logits, R, how), length if save else None

    def _read(
        self,
        state: ContextState,
        input_ids: Ints,
        commit_len: Ints,
        logit_positions: Ints,
        sampling: Mapping[str, npt.ArrayLike],
        save: bool,
        then: Callable[[int], None] | None,
    ) -> tuple[ContextBuffers, int]:
        """Enqueue a context call; return its buffers and how many tokens it reads."""
        R = logit_positions.shape[1]
        buffers = self.buffers_of(state)
        room = state.capacity - int(np.max(state.lengths))
        length = padded_length(input_ids.shape[1], room, self.limits)
        positions = length if R > 1 and (self.limits is None or length <= self.limits.positions[1]) else R
        call = self._pool.evict_until_fits(lambda: buffers.context(length, positions, save))
        call.inputs.upload(
            input_ids=widened(input_ids, length),
            lengths=state.lengths,
            commit_len=commit_len,
            logit_positions=widened(logit_positions, positions),
            **sampling,
        )
        self._pool.evict_until_fits(call.step.run)
        state.lengths[:] += commit_len
        if then is not None:
            then(length)
        return call, length

    def reserve_new_kv(self, state: ContextState, length: int) -> None:
        """Allocate memory for the new keys and values of a context call over L tokens, unless it is there.

        Raises:
            DeviceMemoryError: there is no room for it, even without the idle buffers.
        """
        with self.runtime.lock:
            buffers = self.buffers_of(state)
            self._pool.evict_until_fits(lambda: buffers.changed_kv(length))

    def advance_whole(self, state: ContextState, saved: Any, commit_len: Ints) -> None:
        with self.runtime.lock:
            buffers = self.buffers_of(state)
            call = self._pool.evict_until_fits(lambda: buffers.advance(saved))
            call.inputs.upload(commit_len=commit_len)
            self._pool.evict_until_fits(call.step.run)
            self.runtime.device.wait()  # the inputs may be written again
            state.lengths[:] += commit_len

    def denoise_whole(self, state: ContextState, block_ids: Ints, t: Floats) -> BlockBuffers:
        with self.runtime.lock:
            buffers = self.buffers_of(state)
            call = self._pool.evict_until_fits(lambda: buffers.block(block_ids.shape[1]))
            nothing = dict.fromkeys(STEP_INPUTS, 0)
            call.inputs.upload(**nothing | {"block_ids": block_ids, "t": t, "lengths": state.lengths})
            self._pool.evict_until_fits(call.denoise.run)
            self.runtime.device.wait()
            return call

    def denoise_step_whole(self, state: ContextState, t: Floats, inputs: StepInputs) -> StepOutputs:
        with self.runtime.lock:
            buffers = self.buffers_of(state)
            call = self._pool.evict_until_fits(lambda: buffers.block(inputs.block_ids.shape[1]))
            small = {name: getattr(inputs, name) for name in STEP_INPUTS}
            call.inputs.upload(**small, t=t, lengths=state.lengths)
            self._pool.evict_until_fits(call.fill.run)
            outputs = StepOutputs(**call.outputs.download())
            if call.loop is not None:
                call.loop.warm_up(stepped=call.fill.warm)
            return outputs

    def sample_whole(self, logits: BlockBuffers | ContextLogits, how: SamplingParams) -> SampledTokens | None:
        if isinstance(logits, ContextLogits) or not self.samples_on_device(how):
            return None
        with self.runtime.lock:
            self.runtime.check_open()
            nothing = dict.fromkeys((*STEP_INPUTS, *DENOISER_INPUTS), 0)
            logits.inputs.upload(**nothing | sampling_inputs(how))
            self._pool.evict_until_fits(logits.sample.run)
            samples = sampled_tokens(logits.outputs.download())
            return self.split(samples, logits.logits, logits.logits.shape[1], how)

    def fetch_whole(self, logits: BlockBuffers | ContextLogits | DeviceArray) -> Floats:
        values = self.read_logits(logits if isinstance(logits, DeviceArray) else logits.logits)
        return values[:, : logits.positions] if isinstance(logits, ContextLogits) else values

    def step_whole(self, logits: BlockBuffers, inputs: StepInputs) -> StepOutputs:
        with self.runtime.lock:
            self.runtime.check_open()
            small = {name: getattr(inputs, name) for name in STEP_INPUTS}
            logits.inputs.upload(**small, t=0, lengths=0)
            self._pool.evict_until_fits(logits.commit.run)
            return StepOutputs(**logits.outputs.download())

    def fill_whole(self, state: ContextState, inputs: BlockInputs) -> Sequence[StepOutputs] | None:
        with self.runtime.lock:
            buffers = self.buffers_of(state)
            call = self._pool.evict_until_fits(lambda: buffers.block(inputs.block_ids.shape[1]))
            return fill_blocks(call, state.lengths, inputs, self.config.mask_token_id, {})

    def clear_rows(self, state: ContextState, rows: Ints) -> None:
        with self.runtime.lock:
            for tensor in self.buffers_of(state).state.values():
                for row in rows.tolist():
                    self.runtime.device.fill(tensor.part(row, 1), 0)
            self.runtime.device.wait()
            state.lengths[rows] = state.touched[rows] = 0

    def copy_row(self, source: ContextState, row: int, target: ContextState, to: int) -> None:
        with self.runtime.lock:
            into = self.buffers_of(target).state
            for name, tensor in self.buffers_of(source).state.items():
                old, new = tensor.part(row, 1), into[name].part(to, 1)
                if old.nbytes == new.nbytes:
                    self.runtime.device.copy(new, old)
                else:  # caches of two capacities: a piece for every head
                    for here, there in zip(_heads(new, old), _heads(old, new), strict=True):
                        self.runtime.device.copy(here, there)
            # The old buffers may be taken, and cleared, as soon as nobody holds their state.
            self.runtime.device.wait()
            target.lengths[to] = source.lengths[row]

    def read_state(self, state: ContextState, rows: Ints | None = None) -> dict[str, Floats]:
        which = state.rows(rows)
        with self.runtime.lock:
            tensors = self.buffers_of(state).state
            return {name: self._staging.read(a).astype(np.float32)[which] for name, a in tensors.items()}

    def write_state(self, capacity: int, lengths: Ints, tensors: Mapping[str, Any]) -> ContextState:
        with self.runtime.lock:
            state = self.new_state(len(lengths), capacity)
            for name, array in self.buffers_of(state).state.items():
                values = np.zeros(array.shape, np.float32)
                values[: len(lengths)] = tensors[name]
                self._staging.write(array, values)
            state.lengths[:] = lengths
            return state

    def warm_up(self, batch: int, capacity: int, block_size: int, chunk: int) -> None:
        warm_up_context(self, batch, capacity, block_size, chunk)
        self.warm_up_block(batch, capacity, block_size)

    def warm_up_block(self, batch: int, capacity: int, block_size: int) -> None:
        """Capture the filling of a block, in the same way as `warm_up_context`."""
        with self.runtime.lock:
            state = self.new_state(batch, capacity)
            masks = np.full((batch, block_size), self.config.mask_token_id, np.int32)
            zeros = np.zeros(batch, np.float32)
            block = BlockInputs(masks, 1, zeros, zeros, np.zeros(batch, np.int64))
            zero = np.zeros(batch, np.int32)
            one = StepInputs(masks, zeros, zeros, block.row_key, zero, zero, zero + 1)
            for _ in range(2):
                self.denoise_step(state, zeros + 1, one)
                self.fill_blocks(state, block)

    def close_buffers(self) -> None:
        self._pool.close()


def warm_up_context(backend: Backend, batch: int, capacity: int, block_size: int, chunk: int) -> None:
    """Capture the context calls of these sizes: run each twice, on a state that nobody uses."""
    state = backend.new_state(batch, capacity)
    nothing = np.zeros(batch, np.int32)
    block = min(block_size, capacity)
    for length in call_lengths(block, min(chunk, capacity), backend.limits):
        for positions in (0, 1) if backend.skips_logits else (1,):
            for save in (False, True) if length == block else (False,):
                at = np.zeros((batch, positions), np.int32)
                for _ in range(2):
                    backend.context(state, np.zeros((batch, length), np.int32), nothing, at, save)


def _heads(cache: DeviceArray, other: DeviceArray) -> list[DeviceArray]:
    """The cache of one row (1, KV heads, C, P) as one array per head, as long as both caches are."""
    _, heads, capacity, width = cache.shape
    tokens = min(capacity, other.shape[2])
    head = DeviceArray(cache.memory, cache.address, cache.dtype, (heads * capacity, width))
    return [head.part(i * capacity, tokens) for i in range(heads)]
