"""Speculative decoding with exact verification: the text is AR's own, whatever was drafted.

A row's last token is always *pending*: AR's own and final, but not yet in the state. A round reads it
together with drafted tokens after it. The logits after each say what AR writes next: the longest drafted
prefix that agrees is committed with the pending token, and AR's own token after it, the *bonus token*,
becomes the next pending one. So a round gives one token more than it accepts, and what was drafted decides
only how many rounds the text takes. What a grammar forbids is cut off the draft, since AR would not write it.
"""

from typing import Protocol

from ttc.runtime.decoding.draft_stats import DraftRecord
from ttc.runtime.decoding.modes.filling import BlockFilling
from ttc.runtime.decoding.result import Event
from ttc.runtime.decoding.rows import Row
from ttc.runtime.decoding.work import Advance, Denoised, Due, Outcome, Read, Sampled

__all__ = ["Draft", "Drafter", "Speculative"]


class Draft(Protocol):
    """One draft on its way."""

    @property
    def filling(self) -> BlockFilling | None:
        """The block that the denoiser has still to fill; None when the draft is ready."""

    @property
    def tokens(self) -> tuple[int, ...]:
        """The drafted tokens, once it is ready."""


class Drafter(Protocol):
    """Proposes drafts for one row, and may learn from what verification said."""

    def propose(self, row: Row) -> Draft:
        """Begin a draft of what may follow the row's last token."""

    def observe(self, row: Row, draft: Draft, accepted: int) -> DraftRecord | None:
        """Take in how many drafted tokens AR would have written; return the round's record, if any."""


class Speculative:
    """One row of a mode that drafts and verifies."""

    samples_after_prompt = True

    def __init__(self, drafter: Drafter) -> None:
        self._drafter = drafter
        self._draft: Draft | None = None
        # The part of a ready draft that is verified; None until it is known.
        self._usable: tuple[int, ...] | None = None
        # What verification said, while the state has still to move past it.
        self._verdict: Sampled | None = None
        self._round = 0

    def prompt(self, row: Row) -> tuple[int, ...]:
        """Return the whole prompt."""
        return row.request.prompt

    def start(self, row: Row, sampled: Sampled | None) -> None:
        """Take the prompt's next token as the first pending one: a round without a draft."""
        assert sampled is not None, "the prompt's next token was asked for"
        self._settle_round(row, (), sampled, None)

    def due(self, row: Row) -> Due:
        """Return a denoise step of the draft, its verification, or the move of the state past what was
        accepted.
        """
        if self._verdict is not None:
            return Advance(self._verdict.accepted + 1, self._verdict.call)
        assert self._draft is not None, "a round has a draft, be it empty"
        if self._draft.filling is not None:
            return self._draft.filling.due(row)
        if self._usable is None:
            self._usable = row.usable(self._draft.tokens)
        tokens = self._usable
        # Without a draft the pending token is all there is to commit: an AR step.
        return Read((row.tokens[-1], *tokens), 0 if tokens else 1, row.sampling(tokens), tokens)

    def settle(self, row: Row, due: Due, outcome: Outcome) -> None:
        draft = self._draft
        assert draft is not None, "a round has a draft, be it empty"
        if isinstance(outcome, Denoised):
            assert draft.filling is not None, "the denoiser fills a draft"
            draft.filling.settle(row, outcome)
        elif isinstance(outcome, Sampled):
            assert self._usable is not None, "the draft was verified"
            record = self._drafter.observe(row, draft, outcome.accepted)
            if self._usable:
                self._verdict = outcome
            self._settle_round(row, draft.tokens, outcome, record, again=not self._usable)
        else:
            assert isinstance(due, Advance), "a verified row moves on"
            row.length += due.commit
            self._verdict = None
            self._propose(row)

    def _propose(self, row: Row) -> None:
        self._draft, self._usable = self._drafter.propose(row), None

    def _settle_round(
        self,
        row: Row,
        drafted: tuple[int, ...],
        sampled: Sampled,
        record: DraftRecord | None,
        *,
        again: bool = True,
    ) -> None:
        """Append the accepted part of the draft and the bonus token, and tell of it. `again`: the state is
        where it should be, so the next draft may begin.
        """
        bonus = (sampled.token,) if sampled.token >= 0 else ()
        taken = row.take((*drafted[: sampled.accepted], *bonus), sampled.logprobs)
        if not bonus and row.finish_reason is None:
            row.end_without(sampled.token)
        if taken and row.has_listener:
            row.tell(
                Event.of_tokens(
                    row.request.index,
                    self._round,
                    row.nfe_per_block[-1] if row.nfe_per_block else 0,
                    taken,
                    record=record,
                    rejected=drafted[sampled.accepted :],
                )
            )
        self._round += 1
        if again and row.finish_reason is None:
            self._propose(row)
