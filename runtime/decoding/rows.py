"""One row: a request on its way, from the queue to its end, and what a mode is to it."""

import math
from collections.abc import Sequence
from dataclasses import dataclass, field
from enum import Enum
from typing import Protocol

from ttc.errors import InputError, NumericsError, TtcError
from ttc.runtime.decoding.request import RowRequest
from ttc.runtime.decoding.result import Event, FinishReason, TokenScore
from ttc.runtime.decoding.seats import Seat
from ttc.runtime.decoding.work import Due, Outcome, Read, Sampled, Scored
from ttc.runtime.interface.sampling import INVALID_TOKEN, NO_BAN, Ban, RowSampling

__all__ = ["Mode", "Phase", "Row"]


class Phase(Enum):
    """Where a row stands."""

    WAITING = "waiting"
    PROMPT = "prompt"
    RUNNING = "running"
    ENDED = "ended"


class Mode(Protocol):
    """One row's way to write. Made when the row starts; the core asks `due`, and hands back what came of it.

    Attributes:
        samples_after_prompt: whether the token after the prompt is sampled from the prompt's logits.
    """

    samples_after_prompt: bool

    def prompt(self, row: "Row") -> tuple[int, ...]:
        """Return what the context tower reads before the mode starts."""

    def start(self, row: "Row", sampled: Sampled | None) -> None:
        """Begin, with the prompt read; `sampled` is its next token where the mode asked for it."""

    def due(self, row: "Row") -> Due:
        """Return what the row needs next; asking twice gives the same."""

    def settle(self, row: "Row", due: Due, outcome: Outcome) -> None:
        """Take in what came of it: tokens, the next state, perhaps the row's end."""


@dataclass(slots=True, eq=False)
class Row:
    """State of one row; written by `settle` and by the core that owns it.

    Attributes:
        id: the core's number, in order of arrival.
        length: tokens of the row in the context state.
        tokens: new token ids, cut at the row's end.
        logprobs: of every new token, where asked for.
        nfe_per_block: denoiser evaluations of every finished or running block.
        context_calls: context calls that read tokens of this row.
        scores: of the prompt's tokens after the first, where asked for.
        submitted, started: when it was queued and when it started, on the core's clock.
        cached_tokens: prompt tokens that came from the prefix cache.
        looked_up: whether the prefix cache was asked.
        served: number of the last tick in which a call was about it.
        error: what the row ended by, with finish_reason "error".
    """

    id: int
    request: RowRequest
    phase: Phase = Phase.WAITING
    seat: Seat | None = None
    mode: Mode | None = None
    length: int = 0
    tokens: list[int] = field(default_factory=list)
    logprobs: list[float] = field(default_factory=list)
    nfe_per_block: list[int] = field(default_factory=list)
    context_calls: int = 0
    scores: list[TokenScore] = field(default_factory=list)
    submitted: float = 0.0
    started: float | None = None
    cached_tokens: int = 0
    looked_up: bool = False
    served: int = 0
    finish_reason: FinishReason | None = None
    error: TtcError | None = None
    # What is due, once asked for and until it changes: a tick asks several times.
    _due: Due | None = field(default=None, init=False)

    def due(self, chunk: int) -> Due | None:
        """Return what the row needs next; None when it has ended.

        chunk: prompt tokens of one piece; pieces begin at multiples of it, so that a piece is the same
            whoever asks.
        """
        if self.finish_reason is not None:
            return None
        if self._due is None:
            self._due = self._find_due(chunk)
        return self._due

    def _find_due(self, chunk: int) -> Due:
        assert self.mode is not None, "a row that runs has a mode"
        if self.phase is Phase.RUNNING:
            return self.mode.due(self)
        prompt = self.mode.prompt(self)
        piece = prompt[self.length : self.length - self.length % chunk + chunk]
        last = self.length + len(piece) == len(prompt)
        sampling = self.sampling() if last and self.mode.samples_after_prompt else None
        targets: tuple[int, ...] = ()
        if self.request.options.prompt_logprobs:
            targets = self.request.prompt[self.length + 1 : self.length + 1 + len(piece)]
        return Read(tuple(piece), len(piece), sampling, prompt=True, targets=targets)

    def settle(self, due: Due, outcome: Outcome) -> None:
        """Take in what came of `due`."""
        assert self.mode is not None, "a row that runs has a mode"
        self._due = None
        if isinstance(due, Read):
            self.context_calls += 1
            self.length += due.commit
        if isinstance(outcome, Scored):
            if any(math.isnan(score.logprob) for score in outcome.scores):
                self.fail(
                    NumericsError(
                        "the model gave NaN or infinite logits in the prompt; check the weights (ttc inspect)"
                    )
                )
                return
            self.scores += outcome.scores
            outcome = outcome.sampled
        if self.phase is Phase.RUNNING:
            self.mode.settle(self, due, outcome)
        elif self.length >= len(self.mode.prompt(self)):
            self.start(outcome if isinstance(outcome, Sampled) else None)

    def skip(self, tokens: int) -> None:
        """Begin after the first tokens of the prompt, which the prefix cache put into the row's seat."""
        self.length = self.cached_tokens = tokens
        self.looked_up, self._due = True, None

    def start(self, sampled: Sampled | None) -> None:
        """Leave the prompt for the mode; `sampled` is the prompt's next token where the mode asked for it."""
        assert self.mode is not None, "a row that runs has a mode"
        self._due = None
        self.phase = Phase.RUNNING
        if self.request.max_new_tokens == 0:  # only the prompt was of interest
            self.finish_reason = "length"
            return
        self.mode.start(self, sampled)

    def sampling(self, draft: Sequence[int] = ()) -> RowSampling:
        """Return how AR samples the row's next token, and those after each token of a draft."""
        options, request = self.request.options, self.request
        done = len(self.tokens)
        early = max(0, options.min_tokens - done)
        banned = options.banned_token_ids
        ban = Ban(banned, tuple(sorted(options.eos_token_ids)), early) if banned or early else NO_BAN
        return RowSampling(
            options.temperature,
            options.top_k,
            options.top_p,
            request.row_key if options.temperature else 0,
            len(request.prompt) + done,
            ban,
            None if request.grammar is None else request.grammar.mask(draft),
            options.logprobs,
        )

    def usable(self, draft: tuple[int, ...]) -> tuple[int, ...]:
        """Return the part of a draft that the row's grammar lets pass."""
        grammar = self.request.grammar
        return draft if grammar is None else draft[: grammar.usable(draft)]

    def take(self, tokens: Sequence[int], logprobs: Sequence[float] = ()) -> tuple[int, ...]:
        """Append new tokens; return what of them goes into the result, and set `finish_reason` if they end
        it.

        The result ends after the first eos, where its `grammar` or its `ending` says, or at its length,
        whichever is first.
        """
        eos, room = self.request.options.eos_token_ids, self.request.max_new_tokens - len(self.tokens)
        taken = list(tokens[:room])
        reason: FinishReason | None = None
        if self.request.grammar is not None:
            # First, because what was sampled after the grammar's end is an eos that nobody asked for.
            kept = self.request.grammar.push(taken)
            if kept is not None:
                taken, reason = taken[:kept], "stop"
        for i, token in enumerate(taken):
            if token in eos:
                taken, reason = taken[: i + 1], "eos"
                break
        if reason is None and len(taken) == room:
            reason = "length"
        if self.request.ending is not None:
            kept = self.request.ending.push(taken, final=reason is not None)
            if kept is not None:
                taken, reason = taken[:kept], "stop"
        self.tokens += taken
        self.logprobs += logprobs[: len(taken)]
        self.finish_reason = reason
        return tuple(taken)

    def end_without(self, token: int) -> None:
        """End the row where no token could be sampled.

        token: `INVALID_TOKEN` or `NO_TOKEN`. With nothing left to write, a text that is complete has come to
            its end; any other has failed.
        """
        number, grammar = len(self.tokens), self.request.grammar
        if token == INVALID_TOKEN:
            self.fail(
                NumericsError(
                    f"the model gave NaN or infinite logits for new token {number}; check the weights "
                    "(ttc inspect) and the dtype"
                )
            )
        elif grammar is not None and grammar.complete:
            self.finish_reason = "stop"
        else:
            why = (grammar.problem if grammar is not None else "") or "banned_token_ids forbids all there is"
            self.fail(InputError(f"nothing may be written as new token {number}: {why}"))

    def fail(self, error: TtcError) -> None:
        """End the row by an error."""
        self.error, self.finish_reason = error, "error"

    def tell(self, event: Event) -> None:
        """Hand an event to who listens."""
        if self.request.listener is not None:
            self.request.listener(event)

    @property
    def has_listener(self) -> bool:
        """Whether events are wanted."""
        return self.request.listener is not None
