"""One generation under way: its rows, how they are to be made, and the backend's calls on its clock."""

import time
from collections.abc import Callable, Iterator, Sequence
from typing import Any, ParamSpec, TypeVar

import numpy as np
import numpy.typing as npt

from ttc.model.config import ModelConfig
from ttc.runtime.decoding.options import CheckedOptions
from ttc.runtime.decoding.rows import Row
from ttc.runtime.interface.backend import Backend, BlockInputs, StepOutputs
from ttc.runtime.interface.sampling import SampledTokens, SamplingParams
from ttc.runtime.interface.state import ContextState

__all__ = ["Generation"]

P = ParamSpec("P")
T = TypeVar("T")
Floats = npt.NDArray[np.float32]
Ints = npt.NDArray[np.int32]


class Generation:
    """What every loop is given. Its methods are the backend's, and count their time.

    Attributes:
        backend: where the towers run. Loops call the methods here instead.
        rows: all rows of the batch; a loop keeps its own list of those that are not done.
        options: of all rows.
        capacity: tokens that a row's state holds.
        chunk: prompt tokens read in one context call.
        backend_seconds: time spent in the backend so far.
    """

    def __init__(
        self, backend: Backend, rows: Sequence[Row], options: CheckedOptions, capacity: int, chunk: int
    ) -> None:
        self.backend, self.rows, self.options = backend, rows, options
        self.capacity, self.chunk = capacity, chunk
        self.backend_seconds = 0.0

    @property
    def config(self) -> ModelConfig:
        return self.backend.config

    def new_state(self, batch: int) -> ContextState:
        """Return an empty state for `batch` rows, of the generation's capacity."""
        return self.timed(self.backend.new_state, batch, self.capacity)

    def context(self, state: ContextState, input_ids: Ints, commit_len: Ints, logit_positions: Ints) -> None:
        """Move the state past the first `commit_len` tokens; see `Backend.context`."""
        self.timed(self.backend.context, state, input_ids, commit_len, logit_positions)

    def sample_next(
        self,
        state: ContextState,
        input_ids: Ints,
        commit_len: Ints,
        logit_positions: Ints,
        params: SamplingParams,
        save: bool = False,
    ) -> tuple[SampledTokens, Any]:
        """Move the state as `context` does and sample after every position; see `Backend.sample_next`."""
        return self.timed(
            self.backend.sample_next, state, input_ids, commit_len, logit_positions, params, save
        )

    def advance(self, state: ContextState, saved: Any, commit_len: Ints) -> None:
        """Move the state past tokens that the last context call saved; see `Backend.advance`."""
        self.timed(self.backend.advance, state, saved, commit_len)

    def denoise(self, state: ContextState, block_ids: Ints, t: Floats) -> Any:
        """Evaluate the denoiser once; see `Backend.denoise`."""
        return self.timed(self.backend.denoise, state, block_ids, t)

    def sample(self, logits: Any, params: SamplingParams) -> SampledTokens:
        """Sample from logits; see `Backend.sample`."""
        return self.timed(self.backend.sample, logits, params)

    def denoise_steps(self, state: ContextState, inputs: BlockInputs) -> Iterator[StepOutputs]:
        """Fill a block and yield every step; see `Backend.fill_block`."""
        steps = self.backend.fill_block(state, inputs)
        while (outputs := self.timed(next, steps, None)) is not None:
            yield outputs

    def drop_finished(self, state: ContextState, rows: Sequence[Row]) -> tuple[ContextState, list[Row], Ints]:
        """Return the state and the rows of those that go on, and their indices in the batch so far."""
        kept = np.array([r for r, row in enumerate(rows) if row.finish_reason is None], np.int32)
        if 0 < len(kept) < len(rows):
            state = self.timed(self.backend.select, state, kept)
        return state, [rows[r] for r in kept.tolist()], kept

    def timed(self, function: Callable[P, T], *args: P.args, **kwargs: P.kwargs) -> T:
        """Return what `function` returns, and count its time as the backend's."""
        start = time.perf_counter()
        try:
            return function(*args, **kwargs)
        finally:
            self.backend_seconds += time.perf_counter() - start
