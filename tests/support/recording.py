"""Backends that stand between the loop and a real one, or in place of one."""

from collections.abc import Sequence
from typing import Any

import numpy as np

from ttc.plugins.diffusion_step import naive_numpy as commit
from ttc.runtime.interface.backend import Backend, ContextCall, Floats, Ints, StepInputs, StepOutputs
from ttc.runtime.interface.state import ContextState, RowPiece


class Wrapped(Backend):
    """Passes every call on; records what the denoiser was asked."""

    def __init__(self, inner: Backend) -> None:
        self.inner, self.name, self.config, self.notes = inner, inner.name, inner.config, inner.notes
        self.can_advance, self.can_save_rows = inner.can_advance, inner.can_save_rows
        self.asked: list[tuple[Ints, Floats]] = []

    @property
    def device_name(self) -> str:
        return self.inner.device_name

    def new_state(self, batch: int, capacity: int) -> ContextState:
        return self.inner.new_state(batch, capacity)

    def context(
        self,
        state: ContextState,
        input_ids: Ints,
        commit_len: Ints,
        logit_positions: Ints,
        save: bool = False,
        rows: Ints | None = None,
    ) -> ContextCall:
        return self.inner.context(state, input_ids, commit_len, logit_positions, save, rows)

    def advance(self, state: ContextState, saved: Any, commit_len: Ints, rows: Ints | None = None) -> None:
        self.inner.advance(state, saved, commit_len, rows)

    def denoise(self, state: ContextState, block_ids: Ints, t: Floats, rows: Ints | None = None) -> Any:
        self.asked.append((block_ids.copy(), t.copy()))
        return self.inner.denoise(state, block_ids, t, rows)

    def fetch(self, logits: Any) -> Floats:
        return self.inner.fetch(logits)

    def resize(self, state: ContextState, batch: int) -> None:
        self.inner.resize(state, batch)

    def clear_rows(self, state: ContextState, rows: Ints) -> None:
        self.inner.clear_rows(state, rows)

    def copy_row(self, source: ContextState, row: int, target: ContextState, to: int) -> None:
        self.inner.copy_row(source, row, target, to)

    def save_row(self, state: ContextState, row: int, start: int) -> RowPiece:
        return self.inner.save_row(state, row, start)

    def load_row(self, state: ContextState, row: int, pieces: Sequence[RowPiece]) -> None:
        self.inner.load_row(state, row, pieces)

    def step(self, logits: Any, inputs: StepInputs) -> StepOutputs:
        return self.inner.step(logits, inputs)

    def close(self) -> None:
        pass


class RecordedNoise(Wrapped):
    """Takes the uniforms of every step from a recording instead of the generator."""

    def __init__(self, inner: Backend, noise: Sequence[Floats]) -> None:
        super().__init__(inner)
        self._noise = iter(noise)

    def step(self, logits: Any, inputs: StepInputs) -> StepOutputs:
        mask_id = self.config.mask_token_id
        uniform = next(self._noise)
        predicted, confidence = commit.predict(
            self.fetch(logits), inputs.block_ids, inputs.temperature, uniform, mask_id
        )
        block, masked = commit.commit(
            inputs.block_ids, predicted, confidence, inputs.threshold, inputs.steps_left, mask_id
        )
        return StepOutputs(block, predicted, confidence, masked)


class Scripted(Backend):
    """No model: call number n of the denoiser returns logits[n], whatever it is asked. The context reads
    nothing.
    """

    name, notes, device_name = "scripted", (), "cpu"

    def __init__(self, config: Any, logits: Sequence[Floats]) -> None:
        self.config = config
        self._logits = iter(logits)

    def new_state(self, batch: int, capacity: int) -> ContextState:
        return ContextState(capacity, np.zeros(batch, np.int32), {})

    def context(
        self,
        state: ContextState,
        input_ids: Ints,
        commit_len: Ints,
        logit_positions: Ints,
        save: bool = False,
        rows: Ints | None = None,
    ) -> ContextCall:
        state.lengths[state.rows(rows)] += commit_len
        return ContextCall(np.zeros((*logit_positions.shape, self.config.vocab_size), np.float32), None)

    def advance(self, state: ContextState, saved: Any, commit_len: Ints, rows: Ints | None = None) -> None:
        raise AssertionError("these loops never advance afterwards")

    def denoise(self, state: ContextState, block_ids: Ints, t: Floats, rows: Ints | None = None) -> Floats:
        return next(self._logits)

    def fetch(self, logits: Floats) -> Floats:
        return logits

    def resize(self, state: ContextState, batch: int) -> None:
        state.resize(batch)

    def clear_rows(self, state: ContextState, rows: Ints) -> None:
        state.lengths[rows] = 0

    def copy_row(self, source: ContextState, row: int, target: ContextState, to: int) -> None:
        target.lengths[to] = source.lengths[row]

    def close(self) -> None:
        pass
