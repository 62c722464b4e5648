"""Calls of a plan → calls of a backend → what came of them, row by row."""

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any, Protocol

import numpy as np

from ttc.runtime.decoding.clock import Clock, WallClock
from ttc.runtime.decoding.limits import SHARED_CAPACITY
from ttc.runtime.decoding.plan import Call
from ttc.runtime.decoding.rows import Row
from ttc.runtime.decoding.scores import token_scores
from ttc.runtime.decoding.seats import Seats
from ttc.runtime.decoding.work import Advance, Denoise, Denoised, Outcome, Read, Sampled, Scored
from ttc.runtime.interface.backend import Backend, BlockInputs, Ints, StepInputs, StepOutputs
from ttc.runtime.interface.sampling import INVALID_TOKEN, LazySamples, SampledTokens, SamplingParams
from ttc.runtime.interface.state import ContextState

__all__ = ["BackendDevice", "Counts", "Device"]


@dataclass(slots=True)
class Counts:
    """What a core has asked of its backend so far.

    Attributes:
        denoiser_calls, denoiser_rows: calls of the denoiser, and rows computed in them.
        context_calls, context_rows: of the context tower.
        seconds: inside the backend.
        calls_by_rows: rows → calls of the denoiser with so many.
        calls_by_width: tokens per row → calls of the context tower so wide.
    """

    denoiser_calls: int = 0
    denoiser_rows: int = 0
    context_calls: int = 0
    context_rows: int = 0
    seconds: float = 0.0
    calls_by_rows: Counter[int] = field(default_factory=Counter)
    calls_by_width: Counter[int] = field(default_factory=Counter)

    def copy(self) -> "Counts":
        """Return the counts as they are now."""
        return replace(
            self, calls_by_rows=self.calls_by_rows.copy(), calls_by_width=self.calls_by_width.copy()
        )


@dataclass(frozen=True, slots=True)
class _Saved:
    """A call whose state has still to move: what it saved, and the rows it was about."""

    saved: Any
    ids: tuple[int, ...]
    rows: Ints


class Device(Protocol):
    """What a core needs of whoever carries out its calls, be it a backend or a simulation of one."""

    @property
    def clock(self) -> Clock:
        """The clock on which calls take time."""

    @property
    def seats(self) -> Seats:
        """Which row sits where."""

    @property
    def counts(self) -> Counts:
        """What was asked for so far."""

    def call_length(self, length: int) -> int:
        """Return how many tokens a context call over `length` tokens really reads."""

    def run(self, call: Call, rows: Sequence[Row], dues: Sequence[Any]) -> Sequence[Mapping[int, Outcome]]:
        """Carry out one call; return what came of it by row number. Several such maps where several steps
        were taken at once.

        Args:
            call: from the plan.
            rows: its rows, in its order.
            dues: what each of them needs.
        """

    def forget(self) -> None:
        """Take the end of a tick: drop what was saved for rows of which none is left to move."""


class BackendDevice:
    """Carries out calls over one backend."""

    def __init__(self, backend: Backend, most_tokens: int, clock: Clock | None = None) -> None:
        """most_tokens: that one row may hold."""
        self._backend, self.clock = backend, clock or WallClock()
        shared = SHARED_CAPACITY if backend.shares_state else 0
        self.seats = Seats(backend, most_tokens, most_tokens if backend.pages_state else shared)
        self._saved: dict[int, _Saved] = {}
        self._calls = 0
        self.counts = Counts()

    def call_length(self, length: int) -> int:
        return self._backend.call_length(length)

    def run(self, call: Call, rows: Sequence[Row], dues: Sequence[Any]) -> Sequence[Mapping[int, Outcome]]:
        state = self.seats.state(call.state)
        indices = np.array([row.seat.index for row in rows if row.seat is not None], np.int32)
        started = self.clock.now()
        try:
            if call.kind is Denoise:
                return self._denoise(call, state, indices, dues)
            if call.kind is Read:
                return [self._read(state, indices, call.ids, dues)]
            return [self._advance(state, call.ids, dues)]
        finally:
            self.counts.seconds += self.clock.now() - started

    def _denoise(
        self, call: Call, state: ContextState, rows: Ints, dues: Sequence[Denoise]
    ) -> Sequence[Mapping[int, Outcome]]:
        ids = call.ids
        block = dues[0].block[None] if len(dues) == 1 else np.stack([due.block for due in dues])
        t = np.array([due.t for due in dues], np.float32)
        if dues[0].step is None:
            self._count_denoiser(len(rows))
            how = SamplingParams(tuple(due.sampling for due in dues if due.sampling is not None))
            samples = self._backend.sample(self._backend.denoise(state, block, t, rows), how)
            return [dict(zip(ids, _sampled(samples, how), strict=True))]
        steps = [due.step for due in dues if due.step is not None]
        threshold = np.array([step.threshold for step in steps], np.float32)
        temperature = np.array([step.temperature for step in steps], np.float32)
        row_key = np.array([step.row_key for step in steps], np.int64)
        if (
            self._backend.graph_level is not None
            and all(due.fresh for due in dues)
            and len({step.left for step in steps}) == 1
            # Whoever else runs would wait for the whole block.
            and len(rows) == self.seats.seated
        ):
            blocks = BlockInputs(block, steps[0].left, threshold, temperature, row_key)
            outputs = self._backend.fill_blocks(state, blocks, rows)
            if outputs is not None:
                return [self._denoised(ids, each) for each in outputs]
        inputs = StepInputs(
            block,
            threshold,
            temperature,
            row_key,
            state.lengths[rows],
            np.array([step.draw for step in steps], np.int32),
            np.array([step.left for step in steps], np.int32),
        )
        return [self._denoised(ids, self._backend.denoise_step(state, t, inputs, rows))]

    def _denoised(self, ids: Sequence[int], outputs: StepOutputs) -> Mapping[int, Outcome]:
        self._count_denoiser(len(ids))
        nan: list[bool] = np.any(np.isnan(outputs.confidence), axis=1).tolist()
        masked = outputs.masked_count.tolist()
        return {
            row: Denoised(outputs.next_block_ids[i], outputs.confidence[i], masked[i], nan[i])
            for i, row in enumerate(ids)
        }

    def _read(
        self, state: ContextState, rows: Ints, ids: Sequence[int], dues: Sequence[Read]
    ) -> Mapping[int, Outcome]:
        self.counts.context_calls += 1
        self.counts.context_rows += len(rows)
        width = max(len(due.tokens) for due in dues)
        self.counts.calls_by_width[width] += 1
        tokens = np.zeros((len(dues), width), np.int32)
        for i, due in enumerate(dues):
            tokens[i, : len(due.tokens)] = due.tokens
        commit = np.array([due.commit for due in dues], np.int32)
        if dues[0].targets:
            return self._score(state, tokens, commit, rows, ids, dues)
        if dues[0].sampling is None:
            none = np.empty((len(dues), 0), np.int32)
            last = np.array([[len(due.tokens) - 1] for due in dues], np.int32)
            self._backend.context(
                state, tokens, commit, none if self._backend.skips_logits else last, rows=rows
            )
            return dict.fromkeys(ids)
        how = SamplingParams(tuple(due.sampling for due in dues if due.sampling is not None))
        drafts = [due.draft for due in dues]
        if any(drafts):
            positions = np.tile(np.arange(width, dtype=np.int32), (len(dues), 1))
        else:
            positions = np.array([[len(due.tokens) - 1] for due in dues], np.int32)
        save = not commit.any()
        samples, saved = self._backend.sample_next(state, tokens, commit, positions, how, save, rows)
        if not save:
            return dict(zip(ids, _sampled(samples, how), strict=True))
        self._calls += 1
        self._saved[self._calls] = _Saved(saved, tuple(ids), rows)
        return dict(zip(ids, _verified(samples, how, drafts, self._calls), strict=True))

    def _score(
        self,
        state: ContextState,
        tokens: Ints,
        commit: Ints,
        rows: Ints,
        ids: Sequence[int],
        dues: Sequence[Read],
    ) -> Mapping[int, Outcome]:
        """Read pieces of prompts, and say how probable the tokens after each were."""
        positions = np.tile(np.arange(tokens.shape[1], dtype=np.int32), (len(dues), 1))
        logits = self._backend.fetch(
            self._backend.context(state, tokens, commit, positions, rows=rows).logits
        )
        outcomes: dict[int, Outcome] = {}
        for i, (row, due) in enumerate(zip(ids, dues, strict=True)):
            sampled = None
            if due.sampling is not None:
                how, last = SamplingParams((due.sampling,)), len(due.tokens) - 1
                (sampled,) = _sampled(LazySamples(logits[i : i + 1, last : last + 1], how), how)
            outcomes[row] = Scored(token_scores(logits[i], due.targets), sampled)
        return outcomes

    def _advance(
        self, state: ContextState, ids: Sequence[int], dues: Sequence[Advance]
    ) -> Mapping[int, Outcome]:
        """Move the rows of one verification. Those that ended by it stay where they were."""
        what = self._saved.pop(dues[0].call)
        commit = dict(zip(ids, (due.commit for due in dues), strict=True))
        self._backend.advance(
            state, what.saved, np.array([commit.get(row, 0) for row in what.ids], np.int32), what.rows
        )
        return dict.fromkeys(ids)

    def forget(self) -> None:
        self._saved.clear()

    def _count_denoiser(self, rows: int) -> None:
        self.counts.denoiser_calls += 1
        self.counts.calls_by_rows[rows] += 1
        self.counts.denoiser_rows += rows


def _sampled(samples: SampledTokens, how: SamplingParams) -> list[Sampled]:
    """One token a row."""
    tokens = samples.at(np.arange(len(how.rows)), 0).tolist()
    return [
        Sampled(0, token, _logprobs(samples, i, [token]) if how.rows[i].logprobs else ())
        for i, token in enumerate(tokens)
    ]


def _verified(
    samples: SampledTokens, how: SamplingParams, drafts: Sequence[tuple[int, ...]], call: int
) -> list[Sampled]:
    """Walk down the drafts with the rows that still agree; nothing is asked for after a disagreement.

    samples: AR's tokens after the pending token and after every drafted one.
    """
    accepted, bonus = [0] * len(drafts), [INVALID_TOKEN] * len(drafts)
    agreeing = list(range(len(drafts)))
    for position in range(1 + max(map(len, drafts))):
        own = samples.at(agreeing, position).tolist()
        still = []
        for i, token in zip(agreeing, own, strict=True):
            bonus[i] = token
            if position < len(drafts[i]) and drafts[i][position] == token:
                accepted[i] += 1
                still.append(i)
        agreeing = still
        if not agreeing:
            break
    return [
        Sampled(
            accepted[i],
            bonus[i],
            _logprobs(samples, i, [*drafts[i][: accepted[i]], bonus[i]]) if how.rows[i].logprobs else (),
            call,
        )
        for i in range(len(drafts))
    ]


def _logprobs(samples: SampledTokens, row: int, tokens: Sequence[int]) -> tuple[float, ...]:
    """Of the tokens in front of a missing one, which has none."""
    return tuple(samples.logprob(row, position, token) for position, token in enumerate(tokens) if token >= 0)
