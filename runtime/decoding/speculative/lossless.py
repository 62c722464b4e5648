"""Lossless mode: speculative decoding whose drafts are the denoiser's.

A draft is a block whose first token is the pending one (`verify` defines it); the denoiser fills the others
as it does in mask diffusion (`loop.fill_block`). A policy says how many, and in how many steps.
"""

from collections.abc import Generator, Iterator, Sequence

import numpy as np

from ttc.runtime.decoding.generation import Generation
from ttc.runtime.decoding.loop import fill_block
from ttc.runtime.decoding.result import Event
from ttc.runtime.decoding.rows import Row
from ttc.runtime.decoding.speculative.costs import draft_width
from ttc.runtime.decoding.speculative.policy import DraftPolicies, Policy
from ttc.runtime.decoding.speculative.speculate import speculate
from ttc.runtime.decoding.speculative.stats import (
    DraftRecord,
    LosslessStats,
    Plan,
    acceptance_rate_per_position,
)
from ttc.runtime.interface.state import ContextState

__all__ = ["DenoiserDrafter", "lossless"]


def lossless(run: Generation, policies: DraftPolicies) -> Iterator[Event]:
    """Generate AR's text, drafted by the denoiser.

    Args:
        run: the generation.
        policies: the engine's; the one of these options says how much to draft, and in how many steps.
    """
    policy = policies.policy(run)
    yield from speculate(run, DenoiserDrafter(run.rows, policy))
    for row in run.rows:
        row.lossless = _figures(row, policy)


class DenoiserDrafter:
    """Lets the denoiser continue every row, and keeps what became of its drafts."""

    def __init__(self, rows: Sequence[Row], policy: Policy) -> None:
        self._policy, self._plan = policy, Plan(0, 0, "nothing to draft", None, None)
        for row in rows:
            row.nfe_per_block.append(0)  # the prompt's next token takes no draft

    def propose(
        self, run: Generation, rows: Sequence[Row], state: ContextState
    ) -> Generator[Event, None, list[list[int]]]:
        """Return the denoiser's continuation of every row, as long as planned or as the row wants."""
        options = run.options
        self._plan = self._policy.plan(_most_to_draft(run, rows, state))
        length = self._plan.length
        if length == 0:
            for row in rows:
                row.nfe_per_block.append(0)
            return [[] for _ in rows]
        width = draft_width(run.backend, length, options.block_size)
        block = np.full((len(rows), width), run.config.mask_token_id, np.int32)
        block[:, 0] = [row.tokens[-1] for row in rows]
        filled = yield from fill_block(run, rows, block, self._plan.steps, state, redraw=False)
        wanted = [min(length, options.max_new_tokens - len(row.tokens) - 1) for row in rows]
        return [tokens[1 : 1 + most] for tokens, most in zip(filled.tolist(), wanted, strict=True)]

    def observe(self, row: Row, drafted: int, accepted: int) -> DraftRecord:
        """Let the policy learn from the outcome, and keep it with the row."""
        record = DraftRecord(self._plan, drafted, row.nfe_per_block[-1], accepted)
        row.draft_records.append(record)
        self._policy.learn(record)
        return record


def _most_to_draft(run: Generation, rows: Sequence[Row], state: ContextState) -> int:
    """Return the drafted tokens that can be of use to some row and that every row's cache has room for.

    A row that wants one more token gets it from verification, without a draft.
    """
    wanted = max(run.options.max_new_tokens - len(row.tokens) for row in rows) - 1
    room = state.capacity - int(state.lengths.max()) - 1
    return min(run.options.block_size - 1, wanted, room)


def _figures(row: Row, policy: Policy) -> LosslessStats:
    return LosslessStats(
        draft_records=tuple(row.draft_records),
        mean_acceptance_length=len(row.tokens) / len(row.draft_records) if row.draft_records else None,
        acceptance_rate_per_position=acceptance_rate_per_position(row.draft_records),
        costs=policy.costs,
        estimates=policy.estimates,
    )
