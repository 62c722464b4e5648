"""A device that computes nothing: outcomes from the rows' behaviours, time from a cost model."""

import functools
from collections.abc import Callable, Mapping, Sequence
from typing import Any, Literal

import numpy as np
import numpy.typing as npt

from ttc.planning.simulation.behaviour import Behaviour
from ttc.planning.simulation.costs import CallShape, Costs
from ttc.runtime.decoding.clock import VirtualClock
from ttc.runtime.decoding.device import Counts
from ttc.runtime.decoding.plan import Call
from ttc.runtime.decoding.rows import Row
from ttc.runtime.decoding.seats import Seats
from ttc.runtime.decoding.work import Advance, Denoise, Denoised, Outcome, Read, Sampled
from ttc.runtime.interface.backend import Limits
from ttc.runtime.interface.sizes import GPU_SIZES, UsualSizes
from ttc.runtime.interface.state import ContextState

__all__ = ["SimulatedDevice", "shape_of"]

Ints = npt.NDArray[np.int32]
Floats = npt.NDArray[np.float32]


class _Places:
    """States without tensors. A row that is copied takes its time."""

    limits: Limits | None = None
    spare_bytes = 0

    def __init__(self, clock: VirtualClock, costs: Costs, sizes: UsualSizes) -> None:
        self._clock, self._costs, self._sizes = clock, costs, sizes

    @property
    def sizes(self) -> UsualSizes:
        return self._sizes

    def new_state(self, batch: int, capacity: int) -> ContextState:
        return ContextState(capacity, np.zeros(batch, np.int32), {})

    def release(self, state: ContextState) -> None:
        """There is nothing to take back."""

    def resize(self, state: ContextState, batch: int) -> None:
        state.resize(batch)

    def clear_rows(self, state: ContextState, rows: Ints) -> None:
        """There is nothing in them."""

    def copy_row(self, source: ContextState, row: int, target: ContextState, to: int) -> None:
        self._clock.advance(self._costs.move(source.capacity))

    def move_row(self, state: ContextState, row: int, to: int) -> None:
        self.copy_row(state, row, state, to)

    def extend(self, state: ContextState, capacity: int) -> bool:
        return False


class SimulatedDevice:
    """Gives every row what its behaviour says, and lets the clock run by the costs.

    Attributes:
        behaviours: row number → behaviour; whoever submits a row enters it.
        seconds: kind of call → what all of them took.
    """

    def __init__(
        self,
        costs: Costs,
        most_tokens: int,
        mask_id: int,
        word_id: int,
        shared: int = 0,
        sizes: UsualSizes = GPU_SIZES,
        call_length: Callable[[int], int] = lambda length: length,
    ) -> None:
        """Begin at time 0, with nobody seated.

        Args:
            costs: the cost model.
            most_tokens: that one row may hold.
            mask_id: as the model's.
            word_id: what stands for every token that is neither mask nor eos.
            shared: the largest capacity of the state that rows share; 0 for a state per capacity.
            sizes: capacities of states.
            call_length: tokens that are due → tokens that a context call really reads.
        """
        self.clock = VirtualClock()
        self.seats = Seats(_Places(self.clock, costs, sizes), most_tokens, shared)
        self.counts = Counts()
        self.behaviours: dict[int, Behaviour] = {}
        self.seconds: dict[str, float] = {}
        self._costs, self._call_length = costs, functools.cache(call_length)
        self._mask, self._word = mask_id, word_id
        self._ones: dict[int, Floats] = {}
        self._calls = self._rows_in_tick = 0

    def call_length(self, length: int) -> int:
        return self._call_length(length)

    def run(self, call: Call, rows: Sequence[Row], dues: Sequence[Any]) -> Sequence[Mapping[int, Outcome]]:
        # In the first call of a tick all of its rows still sit.
        self._rows_in_tick = self._rows_in_tick or self.seats.in_use
        shape = shape_of(call, dues, self._call_length, self.seats.state(call.state).capacity)
        seconds = self._costs.call(shape)
        self.clock.advance(seconds)
        self.counts.seconds += seconds
        self.seconds[shape.kind] = self.seconds.get(shape.kind, 0.0) + seconds
        if call.kind is Advance:
            return [dict.fromkeys(call.ids)]
        if call.kind is Denoise:
            self.counts.denoiser_calls += 1
            self.counts.denoiser_rows += len(rows)
            return [{row.id: self._denoise(row, due) for row, due in zip(rows, dues, strict=True)}]
        self.counts.context_calls += 1
        self.counts.context_rows += len(rows)
        self._calls += 1
        return [{row.id: self._read(row, due) for row, due in zip(rows, dues, strict=True)}]

    def forget(self) -> None:
        self.clock.advance(self._costs.tick(self._rows_in_tick))
        self._rows_in_tick = 0

    def _denoise(self, row: Row, due: Denoise) -> Outcome:
        if due.step is None:
            return Sampled(0, self._token(row, len(row.tokens)))
        masked = (due.block == self._mask).nonzero()[0]
        count = self.behaviours[row.id].commits(
            len(row.nfe_per_block) - 1, row.nfe_per_block[-1], len(masked), due.step.left
        )
        # The order of commits is almost left to right (docs/model.md, Real sizes).
        block = due.block.copy()
        block[masked[:count]] = self._word
        # The first token of a draft is the row's last one.
        first = len(row.tokens) - (row.request.options.mode == "lossless")
        end = self.behaviours[row.id].answer_tokens - 1 - first
        if 0 <= end < len(block) and block[end] != self._mask:
            block[end] = self._eos(row)
        return Denoised(block, self._sure(len(block)), max(len(masked) - count, 0))

    def _sure(self, length: int) -> Floats:
        """Return confidences, which nobody changes."""
        if length not in self._ones:
            self._ones[length] = np.ones(length, np.float32)
        return self._ones[length]

    def _read(self, row: Row, due: Read) -> Outcome:
        if due.sampling is None:
            return None
        accepted = self.behaviours[row.id].accepts(len(due.draft)) if due.draft else 0
        logprobs = (0.0,) * (accepted + 1) if due.sampling.logprobs else ()
        return Sampled(accepted, self._token(row, len(row.tokens) + accepted), logprobs, self._calls)

    def _token(self, row: Row, position: int) -> int:
        return self._eos(row) if position == self.behaviours[row.id].answer_tokens - 1 else self._word

    def _eos(self, row: Row) -> int:
        return min(row.request.options.eos_token_ids, default=self._word)


def shape_of(call: Call, dues: Sequence[Any], call_length: Callable[[int], int], capacity: int) -> CallShape:
    """Return what a cost model needs to know of a call of these dues, of what it is padded to, and of the
    capacity of its state.
    """
    kind: Literal["denoise", "read", "advance"] = "advance"
    width = logits = 0
    if call.kind is Denoise:
        kind, width = "denoise", len(dues[0].block)
        logits = width
    elif call.kind is Read:
        kind, width = "read", call_length(max(len(due.tokens) for due in dues))
        logits = 0 if dues[0].sampling is None else width if dues[0].draft else 1
    return CallShape(kind, len(dues), width, capacity, logits)
