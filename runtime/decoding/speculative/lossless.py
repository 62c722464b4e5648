"""Lossless mode: the denoiser drafts, the context tower verifies, and the text is AR's own.

A round fills a block whose first token is the pending one with drafted tokens (`loop.fill_block`), lets the
context tower read it once, commits the part that AR would have written and takes the bonus token as the next
pending one (`verify.verify`, which defines both). So a round gives one token more than it accepts, and the
text is that of mode "ar": what was drafted decides only how many rounds it takes.
"""

from collections.abc import Generator, Iterator, Sequence

import numpy as np

from ttc.runtime.decoding.loop import Stopwatch, drop_finished, fill_block, prefill
from ttc.runtime.decoding.options import CheckedOptions
from ttc.runtime.decoding.result import Event
from ttc.runtime.decoding.rows import Row
from ttc.runtime.decoding.speculative.costs import draft_width
from ttc.runtime.decoding.speculative.policy import DraftPolicies, Policy
from ttc.runtime.decoding.speculative.stats import DraftRecord, LosslessStats, acceptance_rate_per_position
from ttc.runtime.decoding.speculative.verify import verify
from ttc.runtime.interface.backend import Backend
from ttc.runtime.interface.state import ContextState

__all__ = ["speculate"]


def speculate(
    backend: Backend,
    timed: Stopwatch,
    rows: Sequence[Row],
    options: CheckedOptions,
    capacity: int,
    chunk: int,
    policies: DraftPolicies,
) -> Iterator[Event]:
    """Draft, verify, commit, until every row has ended.

    policies: the engine's; the one of these options says how much to draft, and in how many steps.
    """
    policy = policies.policy(backend, timed, options, len(rows), capacity)
    state, tokens = prefill(backend, timed, rows, [row.prompt for row in rows], capacity, chunk, options)
    active = list(rows)
    for row, token in zip(active, tokens.tolist(), strict=True):
        row.nfe_per_block.append(0)
        yield _settled(row, [], token, 0, options)
    state, active, _ = drop_finished(backend, timed, state, active)
    while active:
        plan = policy.plan(_most_to_draft(active, options, state))
        drafts = yield from _draft(backend, timed, active, plan.length, plan.steps, options, state)
        verdict = verify(backend, timed, active, drafts, options, state)
        for row, draft, accepted, token in zip(
            active, drafts, verdict.accepted.tolist(), verdict.bonus_ids.tolist(), strict=True
        ):
            row.draft_records.append(DraftRecord(plan, len(draft), row.nfe_per_block[-1], accepted))
            policy.learn(row.draft_records[-1])
            yield _settled(row, draft, token, accepted, options)
        state, active, _ = drop_finished(backend, timed, state, active)
    for row in rows:
        row.lossless = _figures(row, policy)


def _most_to_draft(rows: Sequence[Row], options: CheckedOptions, state: ContextState) -> int:
    """Drafted tokens that can be of use to some row and that every row's cache has room for.

    A row that wants one more token gets it from verification, without a draft.
    """
    wanted = max(options.max_new_tokens - len(row.tokens) for row in rows) - 1
    room = state.capacity - int(state.lengths.max()) - 1
    return min(options.block_size - 1, wanted, room)


def _draft(
    backend: Backend,
    timed: Stopwatch,
    rows: Sequence[Row],
    length: int,
    steps: int,
    options: CheckedOptions,
    state: ContextState,
) -> Generator[Event, None, list[list[int]]]:
    """The denoiser's continuation of every row: `length` tokens, fewer where the row wants fewer."""
    if length == 0:
        for row in rows:
            row.nfe_per_block.append(0)
        return [[] for _ in rows]
    width = draft_width(backend, length, options.block_size)
    block = np.full((len(rows), width), backend.config.mask_token_id, np.int32)
    block[:, 0] = [row.tokens[-1] for row in rows]
    filled = yield from fill_block(backend, timed, rows, block, steps, options, state, redraw=False)
    wanted = [min(length, options.max_new_tokens - len(row.tokens) - 1) for row in rows]
    return [tokens[1 : 1 + most] for tokens, most in zip(filled.tolist(), wanted, strict=True)]


def _settled(row: Row, draft: list[int], token: int, accepted: int, options: CheckedOptions) -> Event:
    """Append the accepted draft and the bonus token to the row, and return the event that reports them.

    The prompt's first token has an empty draft.
    """
    taken = tuple(row.extend([*draft[:accepted], token], options))
    return Event(
        row.index,
        len(row.draft_records),
        row.nfe_per_block[-1],
        taken,
        (False,) * len(taken),
        None,
        committed=True,
        text=None,
        draft_record=row.draft_records[-1] if row.draft_records else None,
        rejected=tuple(draft[accepted:]),
    )


def _figures(row: Row, policy: Policy) -> LosslessStats:
    return LosslessStats(
        draft_records=tuple(row.draft_records),
        mean_acceptance_length=len(row.tokens) / len(row.draft_records) if row.draft_records else None,
        acceptance_rate_per_position=acceptance_rate_per_position(row.draft_records),
        costs=policy.costs,
        estimates=policy.estimates,
    )
