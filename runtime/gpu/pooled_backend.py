"""The backend interface over a pool of rows and pages on one device.

A call names its rows by number, and a row's pages by a table, so it is about any rows wherever they lie, and
nothing is copied for it. It is padded to a few numbers of rows and tokens (`ttc.runtime.gpu.lengths`); what
is added points to a row and a page that are nobody's.
"""

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import numpy.typing as npt

from ttc.runtime.gpu.block_filler import fill_blocks
from ttc.runtime.gpu.call_buffers import BlockBuffers, ContextBuffers
from ttc.runtime.gpu.device import DeviceArray
from ttc.runtime.gpu.executor import DENOISER_INPUTS, POOL_INPUTS, STEP_INPUTS
from ttc.runtime.gpu.lanes import Lane, LeftLogits, LeftSaved
from ttc.runtime.gpu.lengths import padded_length, padded_rows, row_bucket, widened
from ttc.runtime.gpu.over_device import OverDevice
from ttc.runtime.gpu.padding import filled, first_rows, padded_blocks, padded_step
from ttc.runtime.gpu.pool import Pool
from ttc.runtime.gpu.pool_contents import read_rows, write_rows
from ttc.runtime.gpu.pool_warm_up import warm_up
from ttc.runtime.gpu.pooled_state import PooledState, PoolRows, pooled
from ttc.runtime.gpu.row_pool import pages_of
from ttc.runtime.gpu.row_snapshots import Kept, RowSnapshots, Snapshot
from ttc.runtime.gpu.sampling import SAMPLE_NOTHING, sampled_tokens, sampling_inputs
from ttc.runtime.interface.backend import (
    BlockInputs,
    ContextCall,
    Floats,
    Ints,
    StepInputs,
    StepOutputs,
)
from ttc.runtime.interface.sampling import LazySamples, SampledTokens, SamplingParams
from ttc.runtime.interface.state import ContextState, RowPiece

__all__ = ["PooledBackend"]


class PooledBackend(OverDevice):
    """A bundle on one device, whose executor takes rows of a pool (`Executor.pooled`).

    Attributes:
        pool: its rows and pages.
    """

    shares_state = True
    pages_state = True
    can_save_rows = True

    def __init__(self, *arguments: Any, **named: Any) -> None:
        """As `OverDevice`."""
        super().__init__(*arguments, **named)
        self.pool = Pool(self.runtime)
        self._snapshots = RowSnapshots(self.pool, self._forget)

    def new_state(self, batch: int, capacity: int) -> ContextState:
        with self.runtime.lock:
            self.runtime.check_open()
            self._have_width(capacity)
            places = PoolRows(self.pool.take(batch, capacity), self._give_back)
            return PooledState(capacity, np.zeros(batch, np.int32), {}, places, self.pool.bytes_of)

    def resize(self, state: ContextState, batch: int) -> None:
        with self.runtime.lock:
            numbers = self._own(state).places.numbers
            if batch > len(numbers):
                numbers += self.pool.take(batch - len(numbers), state.capacity)
            else:
                self.pool.give(numbers[batch:])
                del numbers[batch:]
            state.resize(batch)

    def context(
        self,
        state: ContextState,
        input_ids: Ints,
        commit_len: Ints,
        logit_positions: Ints,
        save: bool = False,
        rows: Ints | None = None,
    ) -> ContextCall:
        with self.runtime.lock:
            inputs = input_ids, commit_len, logit_positions
            call, lane, saved = self._read(state, *inputs, SAMPLE_NOTHING, save, rows)
            self.runtime.device.wait()  # the inputs may be written again
            if not logit_positions.shape[1]:
                return ContextCall(None, saved)
            return ContextCall(self._left(lane, call, state, *logit_positions.shape), saved)

    def sample_next(
        self,
        state: ContextState,
        input_ids: Ints,
        commit_len: Ints,
        logit_positions: Ints,
        how: SamplingParams,
        save: bool = False,
        rows: Ints | None = None,
    ) -> tuple[SampledTokens, Any]:
        if not self.samples_on_device(how):
            called = self.context(state, input_ids, commit_len, logit_positions, save, rows)
            return LazySamples(self.fetch(called.logits), how), called.saved
        n, R = logit_positions.shape
        with self.runtime.lock:
            sampling = sampling_inputs(filled(how, row_bucket(n)))
            inputs = input_ids, commit_len, logit_positions
            call, _, saved = self._read(state, *inputs, sampling, save, rows)
            samples = sampled_tokens(call.samples.download())
            return self.split(samples, call.logits, R, how), saved

    def _read(
        self,
        state: ContextState,
        input_ids: Ints,
        commit_len: Ints,
        logit_positions: Ints,
        sampling: Mapping[str, npt.ArrayLike],
        save: bool,
        rows: Ints | None,
    ) -> tuple[ContextBuffers, Lane, LeftSaved | None]:
        """Enqueue a context call; return its buffers, where they are, and what it saved."""
        pool, own, which = self.pool, self._own(state), state.rows(rows)
        places, lengths = own.places.of(which), state.lengths[which]
        tokens, R, B = input_ids.shape[1], logit_positions.shape[1], row_bucket(len(which))
        pool.cover(places, lengths, tokens)
        length = padded_length(tokens, pool.most_tokens - int(lengths.max()), None)
        positions = length if R > 1 else R
        lane = pool.lane(own.places, (length, places) if save else None)
        call = pool.fit(lambda: lane.context(B, length, positions, save))
        call.inputs.upload(
            input_ids=padded_rows(widened(input_ids, length), B),
            lengths=padded_rows(lengths, B),
            commit_len=padded_rows(commit_len, B),
            logit_positions=padded_rows(widened(logit_positions, positions), B),
            **pool.placement(places, B),
            **sampling,
        )
        pool.run(call, call.step)
        state.touched[which] = np.maximum(state.touched[which], lengths + tokens)
        state.lengths[which] = lengths + commit_len
        if not save:
            return call, lane, None
        saved = LeftSaved(lane, B, length, places)
        lane.leave_saved(saved)
        return call, lane, saved

    def advance(self, state: ContextState, saved: Any, commit_len: Ints, rows: Ints | None = None) -> None:
        assert isinstance(saved, LeftSaved), "what a context call saved"
        with self.runtime.lock:
            self._own(state)
            pool, lane, B = self.pool, saved.lane, saved.batch
            if not pool.is_current(lane):
                lane = self._moved(saved)
            call = pool.fit(lambda: lane.advance(B, saved.length))
            call.inputs.upload(commit_len=padded_rows(commit_len, B), **pool.placement(saved.rows, B))
            pool.run(call, call.step)
            self.runtime.device.wait()  # the inputs may be written again
            saved.lane.forget_saved(saved)
            state.lengths[state.rows(rows)] += commit_len

    def _moved(self, saved: LeftSaved) -> Lane:
        """Return a lane over the pool as it is now, with what was saved before it moved."""
        lane = self.pool.lane(None, (saved.length, saved.rows))
        old = saved.lane.saved(saved.batch, saved.length)
        new = self.pool.fit(lambda: lane.saved(saved.batch, saved.length))
        for name, tensor in old.items():
            self.runtime.device.copy(new[name], tensor)
        return lane

    def denoise(
        self, state: ContextState, block_ids: Ints, t: Floats, rows: Ints | None = None
    ) -> LeftLogits:
        with self.runtime.lock:
            call, lane, lengths, placement = self._block(state, rows, block_ids.shape[1])
            B = len(lengths)
            small = dict.fromkeys(STEP_INPUTS, 0) | {"block_ids": padded_rows(block_ids, B)}
            call.inputs.upload(**small, t=padded_rows(t, B), lengths=lengths, **placement)
            self.pool.run(call, call.denoise)
            self.runtime.device.wait()
            return self._left(lane, call, state, *block_ids.shape)

    def denoise_step(
        self, state: ContextState, t: Floats, inputs: StepInputs, rows: Ints | None = None
    ) -> StepOutputs:
        with self.runtime.lock:
            call, _, lengths, placement = self._block(state, rows, inputs.block_ids.shape[1])
            small, B = _small(inputs, len(lengths)), len(lengths)
            call.inputs.upload(**small, t=padded_rows(t, B), lengths=lengths, **placement)
            self.pool.run(call, call.fill)
            outputs = StepOutputs(**call.outputs.download())
            if call.loop is not None:
                call.loop.warm_up(stepped=call.fill.warm)
            return first_rows(outputs, len(t))

    def fill_blocks(
        self, state: ContextState, inputs: BlockInputs, rows: Ints | None = None
    ) -> Sequence[StepOutputs] | None:
        with self.runtime.lock:
            call, _, lengths, placement = self._block(state, rows, inputs.block_ids.shape[1])
            blocks = padded_blocks(inputs, len(lengths))
            with self.pool.using(call):
                steps = fill_blocks(call, lengths, blocks, self.config.mask_token_id, placement)
        return None if steps is None else [first_rows(step, len(inputs.block_ids)) for step in steps]

    def _block(
        self, state: ContextState, rows: Ints | None, tokens: int
    ) -> tuple[BlockBuffers, Lane, Ints, dict[str, Ints]]:
        """Return the buffers of a denoiser's call, where they are, the rows' lengths, and where those lie."""
        own, which = self._own(state), state.rows(rows)
        places, B = own.places.of(which), row_bucket(len(which))
        lane = self.pool.lane(own.places)
        call = self.pool.fit(lambda: lane.block(B, tokens))
        return call, lane, padded_rows(state.lengths[which], B), self.pool.placement(places, B)

    def fetch(self, logits: LeftLogits | DeviceArray) -> Floats:
        if isinstance(logits, DeviceArray):
            return self.read_logits(logits)
        return self.read_logits(logits.call.logits.part(0, logits.count))[:, : logits.positions]

    def sample(self, logits: LeftLogits, how: SamplingParams) -> SampledTokens:
        call = logits.call
        if isinstance(call, ContextBuffers) or not self.samples_on_device(how):
            return LazySamples(self.fetch(logits), how)
        with self.runtime.lock:
            self.runtime.check_open()
            nothing = dict.fromkeys((*STEP_INPUTS, *DENOISER_INPUTS, *POOL_INPUTS), 0)
            call.inputs.upload(**nothing | sampling_inputs(filled(how, call.logits.shape[0])))
            self.pool.run(call, call.sample)
            samples = sampled_tokens(call.outputs.download())
            return self.split(samples, call.logits, logits.positions, how)

    def step(self, logits: LeftLogits, inputs: StepInputs) -> StepOutputs:
        call = logits.call
        assert isinstance(call, BlockBuffers), "logits of the denoiser"
        with self.runtime.lock:
            self.runtime.check_open()
            small = _small(inputs, call.logits.shape[0])
            call.inputs.upload(**small, **dict.fromkeys(("t", "lengths", *POOL_INPUTS), 0))
            self.pool.run(call, call.commit)
            return first_rows(StepOutputs(**call.outputs.download()), logits.count)

    def clear_rows(self, state: ContextState, rows: Ints) -> None:
        with self.runtime.lock:
            for place in self._own(state).places.of(rows).tolist():
                self.pool.clear(place)
            state.lengths[rows] = state.touched[rows] = 0

    def copy_row(self, source: ContextState, row: int, target: ContextState, to: int) -> None:
        with self.runtime.lock:
            old, new = self._own(source), self._own(target)
            length = int(source.lengths[row])
            self.pool.copy(old.places.numbers[row], new.places.numbers[to], length)
            target.lengths[to] = target.touched[to] = length

    def extend(self, state: ContextState, capacity: int) -> bool:
        with self.runtime.lock:
            self._own(state)
            self._have_width(capacity)
            state.capacity = capacity
        return True

    def move_row(self, state: ContextState, row: int, to: int) -> None:
        with self.runtime.lock:
            numbers = self._own(state).places.numbers
            numbers[row], numbers[to] = numbers[to], numbers[row]
            for of_rows in (state.lengths, state.touched):
                of_rows[[row, to]] = of_rows[[to, row]]
            self.clear_rows(state, np.array([row], np.int32))

    @property
    def free_piece_bytes(self) -> int:
        return self.device.free_bytes()[0]

    def reserve_pieces(self, nbytes: int, tokens: int) -> None:
        with self.runtime.lock:
            self.runtime.check_open()
            self._snapshots.reserve(nbytes, tokens)

    def save_row(self, state: ContextState, row: int, start: int) -> RowPiece:
        with self.runtime.lock:
            stop = int(state.lengths[row])
            kept = self._snapshots.save(self._own(state).places.numbers[row], start, stop)
            nbytes = self.pool.row_bytes + len(kept.pages) * self.pool.page_bytes
            return RowPiece(start, stop, kept, nbytes, finite=True)

    def load_row(self, state: ContextState, row: int, pieces: Sequence[RowPiece]) -> None:
        with self.runtime.lock:
            kept = [piece.tensors for piece in pieces if isinstance(piece.tensors, Snapshot)]
            self._snapshots.load(self._own(state).places.numbers[row], kept)
            state.lengths[row] = state.touched[row] = pieces[-1].stop

    def read_state(self, state: ContextState, rows: Ints | None = None) -> dict[str, Floats]:
        which = state.rows(rows)
        with self.runtime.lock:
            places = self._own(state).places.of(which).tolist()
            tokens = state.touched[which].tolist()
            return read_rows(self.config, self.pool, self._staging, places, tokens, state.capacity)

    def write_state(self, capacity: int, lengths: Ints, tensors: Mapping[str, Any]) -> ContextState:
        with self.runtime.lock:
            state = self.new_state(len(lengths), capacity)
            places = pooled(state).places.numbers
            write_rows(self.config, self.pool, self._staging, places, capacity, tensors)
            state.lengths[:], state.touched[:] = lengths, capacity
            return state

    def warm_up(self, batch: int, capacity: int, block_size: int, chunk: int) -> None:
        with self.runtime.lock:
            self.runtime.check_open()
            self._have_width(capacity)
            warm_up(self.pool, batch, capacity, block_size, chunk)

    def close_buffers(self) -> None:
        self._snapshots.close()
        self.pool.close()

    def _own(self, state: ContextState) -> PooledState:
        """Return the state as this backend's. Raises `BackendError` once the backend is closed."""
        self.runtime.check_open()
        return pooled(state)

    def _have_width(self, capacity: int) -> None:
        """Have tables for rows of such a capacity, and for what is added to the longest call over them."""
        self.pool.have(0, 0, pages_of(capacity + self.sizes.chunk))

    def _left(
        self, lane: Lane, call: ContextBuffers | BlockBuffers, state: ContextState, count: int, positions: int
    ) -> LeftLogits:
        logits = LeftLogits(lane, call, count, positions)
        lane.leave_logits(logits, pooled(state).places)
        return logits

    def _give_back(self, rows: Sequence[int]) -> None:
        """A state was dropped."""
        self.runtime.dropped.drop(lambda: None if self.runtime.closed else self.pool.give(rows))

    def _forget(self, place: Kept, pages: Sequence[int]) -> None:
        """A snapshot was dropped."""
        self.runtime.dropped.drop(
            lambda: None if self.runtime.closed else self._snapshots.forget(place, pages)
        )


def _small(inputs: StepInputs, batch: int) -> dict[str, Any]:
    """Return `STEP_INPUTS` of so many rows."""
    padded = padded_step(inputs, batch)
    return {name: getattr(padded, name) for name in STEP_INPUTS}
