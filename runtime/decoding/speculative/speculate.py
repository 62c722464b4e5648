"""Speculative decoding: a drafter proposes, the context tower verifies, and the text is that of mode "ar".

A round is a draft and its verification. It gives one token more than it accepts, and what was drafted decides
only how many rounds a text takes.
"""

from collections.abc import Generator, Iterator, Sequence
from typing import Protocol

from ttc.runtime.decoding.generation import Generation
from ttc.runtime.decoding.loop import prefill
from ttc.runtime.decoding.result import Event
from ttc.runtime.decoding.rows import Row
from ttc.runtime.decoding.speculative.stats import DraftRecord
from ttc.runtime.decoding.speculative.verify import verify
from ttc.runtime.interface.state import ContextState

__all__ = ["Drafter", "speculate"]


class Drafter(Protocol):
    """Where drafts come from."""

    def propose(
        self, run: Generation, rows: Sequence[Row], state: ContextState
    ) -> Generator[Event, None, list[list[int]]]:
        """Return a draft for every row, which may be empty; yield what is to be seen on the way.

        A draft is of use up to one token less than the row wants, since verification gives a bonus token, and
        state.lengths + 1 + the longest must fit into the capacity.
        """

    def observe(self, row: Row, drafted: int, accepted: int) -> DraftRecord | None:
        """Take in how much of a row's draft was accepted; return the record for its event, if any."""


def speculate(run: Generation, drafter: Drafter) -> Iterator[Event]:
    """Draft, verify, commit, until every row has ended.

    Yields the drafter's events and one per round and row. Round 0 is the prompt's next token.
    """
    state, tokens = prefill(run, [row.prompt for row in run.rows], sample=True)
    active, number = list(run.rows), 0
    for row, token in zip(active, tokens.tolist(), strict=True):
        yield _commit(run, row, number, [], 0, token, None)
    state, active, _ = run.drop_finished(state, active)
    while active:
        number += 1
        drafts = yield from drafter.propose(run, active, state)
        verdict = verify(run, active, drafts, state)
        for row, draft, accepted, bonus in zip(
            active, drafts, verdict.accepted.tolist(), verdict.bonus_ids.tolist(), strict=True
        ):
            record = drafter.observe(row, len(draft), accepted)
            yield _commit(run, row, number, draft, accepted, bonus, record)
        state, active, _ = run.drop_finished(state, active)


def _commit(
    run: Generation,
    row: Row,
    number: int,
    draft: list[int],
    accepted: int,
    bonus: int,
    record: DraftRecord | None,
) -> Event:
    """Append the accepted draft tokens and the bonus token to the row, and return the event that says so.

    The prompt's next token comes with an empty draft.
    """
    taken = tuple(row.extend([*draft[:accepted], bonus], run.options))
    return Event(
        row.index,
        number,
        row.nfe_per_block[-1] if row.nfe_per_block else 0,
        taken,
        (False,) * len(taken),
        None,
        committed=True,
        text=None,
        draft_record=record,
        rejected=tuple(draft[accepted:]),
    )
