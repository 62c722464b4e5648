"""Rows that come and go, for backends whose buffers and graphs are about whole states.

A state's buffers have room for a power of two of rows, or what the engines were built for, and never shrink:
the rows in use come first, and a call about all of them runs over the whole buffers, the rest idle (nothing
is committed for it, and nobody reads what it gives). A call about some of them runs on a copy of those rows
in buffers of their own, which then goes back.
"""

from abc import abstractmethod
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from ttc.errors import DeviceMemoryError
from ttc.runtime.gpu.lengths import padded_rows
from ttc.runtime.gpu.padding import filled, first_rows, padded_blocks, padded_step
from ttc.runtime.interface.backend import (
    Backend,
    BlockInputs,
    ContextCall,
    Floats,
    Ints,
    StepInputs,
    StepOutputs,
)
from ttc.runtime.interface.sampling import SampledTokens, SamplingParams
from ttc.runtime.interface.state import ContextState

__all__ = ["RowsOfWholes"]


@dataclass(frozen=True, slots=True)
class _Logits:
    """Logits of a call over a whole state, kept alive here; the first `count` rows are meant."""

    logits: Any
    count: int
    whole: ContextState


@dataclass(frozen=True, slots=True)
class _Saved:
    """What a context call saved, and the state it did so over."""

    saved: Any
    whole: ContextState
    part: bool


class RowsOfWholes(Backend):
    """Makes calls about rows out of calls about whole states, which a subclass has (`…_whole`)."""

    shares_state = True

    @abstractmethod
    def new_whole(self, batch: int, capacity: int) -> ContextState:
        """Return an empty state whose buffers have so many rows."""

    @abstractmethod
    def rows_of(self, state: ContextState) -> int:
        """Return how many rows the state's buffers have."""

    @abstractmethod
    def context_whole(
        self,
        state: ContextState,
        input_ids: Ints,
        commit_len: Ints,
        logit_positions: Ints,
        save: bool = False,
    ) -> ContextCall:
        """As `Backend.context`, about all rows of the buffers."""

    @abstractmethod
    def sample_next_whole(
        self,
        state: ContextState,
        input_ids: Ints,
        commit_len: Ints,
        logit_positions: Ints,
        how: SamplingParams,
        save: bool = False,
    ) -> tuple[SampledTokens, Any]:
        """As `Backend.sample_next`, about all rows of the buffers."""

    @abstractmethod
    def advance_whole(self, state: ContextState, saved: Any, commit_len: Ints) -> None:
        """As `Backend.advance`, about all rows of the buffers."""

    @abstractmethod
    def denoise_whole(self, state: ContextState, block_ids: Ints, t: Floats) -> Any:
        """As `Backend.denoise`, about all rows of the buffers."""

    @abstractmethod
    def denoise_step_whole(self, state: ContextState, t: Floats, inputs: StepInputs) -> StepOutputs:
        """As `Backend.denoise_step`, about all rows of the buffers."""

    @abstractmethod
    def fill_whole(self, state: ContextState, inputs: BlockInputs) -> Sequence[StepOutputs] | None:
        """As `Backend.fill_blocks`, about all rows of the buffers."""

    @abstractmethod
    def fetch_whole(self, logits: Any) -> Floats:
        """As `Backend.fetch`, all rows of the buffers."""

    @abstractmethod
    def sample_whole(self, logits: Any, how: SamplingParams) -> SampledTokens | None:
        """As `Backend.sample`, all rows of the buffers; None where that is for the host."""

    @abstractmethod
    def step_whole(self, logits: Any, inputs: StepInputs) -> StepOutputs:
        """As `Backend.step`, all rows of the buffers."""

    def new_state(self, batch: int, capacity: int) -> ContextState:
        whole = self._new_whole(batch, capacity)
        return ContextState(capacity, np.zeros(batch, np.int32), whole.tensors)

    def resize(self, state: ContextState, batch: int) -> None:
        if batch > self.rows_of(state):
            larger = self._new_whole(batch, state.capacity)
            for row in range(state.batch):
                self.copy_row(state, row, larger, row)
            state.tensors = larger.tensors
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
        whole, part = self._whole(state, rows)
        ids, commit, positions = (
            padded_rows(a, whole.batch) for a in (input_ids, commit_len, logit_positions)
        )
        call = self.context_whole(whole, ids, commit, positions, save)
        self._put_back(state, whole, rows, part=part)
        saved = _Saved(call.saved, whole, part) if save else None
        return ContextCall(_Logits(call.logits, len(input_ids), whole), saved)

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
        whole, part = self._whole(state, rows)
        ids, commit, positions = (
            padded_rows(a, whole.batch) for a in (input_ids, commit_len, logit_positions)
        )
        samples, saved = self.sample_next_whole(whole, ids, commit, positions, filled(how, whole.batch), save)
        self._put_back(state, whole, rows, part=part)
        return samples, _Saved(saved, whole, part) if save else None

    def advance(self, state: ContextState, saved: Any, commit_len: Ints, rows: Ints | None = None) -> None:
        assert isinstance(saved, _Saved), "what a context call saved"
        whole = saved.whole
        if not saved.part:  # the caller may have set lengths back
            whole.lengths[: state.batch] = state.lengths
        self.advance_whole(whole, saved.saved, padded_rows(commit_len, whole.batch))
        self._put_back(state, whole, rows, part=saved.part)

    def denoise(self, state: ContextState, block_ids: Ints, t: Floats, rows: Ints | None = None) -> _Logits:
        whole, _ = self._whole(state, rows)
        logits = self.denoise_whole(whole, padded_rows(block_ids, whole.batch), padded_rows(t, whole.batch))
        return _Logits(logits, len(block_ids), whole)

    def denoise_step(
        self, state: ContextState, t: Floats, inputs: StepInputs, rows: Ints | None = None
    ) -> StepOutputs:
        whole, _ = self._whole(state, rows)
        outputs = self.denoise_step_whole(
            whole, padded_rows(t, whole.batch), padded_step(inputs, whole.batch)
        )
        return first_rows(outputs, len(t))

    def fill_blocks(
        self, state: ContextState, inputs: BlockInputs, rows: Ints | None = None
    ) -> Sequence[StepOutputs] | None:
        if not _is_everybody(state, rows):
            return None
        whole, _ = self._whole(state, rows)
        count, blocks = len(inputs.block_ids), padded_blocks(inputs, whole.batch)
        outputs = self.fill_whole(whole, blocks)
        return None if outputs is None else [first_rows(each, count) for each in outputs]

    def fetch(self, logits: Any) -> Floats:
        return self.fetch_whole(logits.logits)[: logits.count]

    def sample(self, logits: Any, how: SamplingParams) -> SampledTokens:
        samples = self.sample_whole(logits.logits, filled(how, logits.whole.batch))
        return super().sample(logits, how) if samples is None else samples

    def step(self, logits: Any, inputs: StepInputs) -> StepOutputs:
        return first_rows(
            self.step_whole(logits.logits, padded_step(inputs, logits.whole.batch)), logits.count
        )

    def _new_whole(self, batch: int, capacity: int) -> ContextState:
        """Buffers for a power of two of rows; where there is no memory for that, for as many as asked for."""
        most = batch if self.limits is None else self.limits.batch[1]
        power = 1 << (batch - 1).bit_length()
        bucket = power if self.limits is None else max(min(power, most), self.limits.batch[0])
        try:
            return self.new_whole(bucket, capacity)
        except DeviceMemoryError:
            if bucket == batch:
                raise
        return self.new_whole(batch, capacity)

    def _whole(self, state: ContextState, rows: Ints | None) -> tuple[ContextState, bool]:
        """The state that a call runs over: the whole buffers where it is about all rows in use, else a copy
        of some; and whether it is a copy.
        """
        if _is_everybody(state, rows):
            lengths = padded_rows(state.lengths, self.rows_of(state))
            return ContextState(state.capacity, lengths, state.tensors), False
        assert rows is not None, "some rows, not all"
        part = self._new_whole(len(rows), state.capacity)
        for i, row in enumerate(rows.tolist()):
            self.copy_row(state, row, part, i)
        return part, True

    def _put_back(self, state: ContextState, whole: ContextState, rows: Ints | None, *, part: bool) -> None:
        """Bring what a call has moved back to the state."""
        if not part:
            state.lengths[:] = whole.lengths[: state.batch]
            return
        assert rows is not None, "some rows, not all"
        for i, row in enumerate(rows.tolist()):
            self.copy_row(whole, i, state, row)


def _is_everybody(state: ContextState, rows: Ints | None) -> bool:
    return rows is None or (len(rows) == state.batch and bool((np.diff(rows) == 1).all()))
