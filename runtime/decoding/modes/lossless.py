"""Lossless mode: the denoiser drafts, filling a block whose first token is the pending one."""

from dataclasses import dataclass

import numpy as np

from ttc.runtime.decoding.draft_stats import (
    DraftRecord,
    LosslessStats,
    Plan,
    acceptance_rate_per_position,
)
from ttc.runtime.decoding.modes.filling import BlockFilling
from ttc.runtime.decoding.modes.speculative import Draft, Speculative
from ttc.runtime.decoding.rows import Row
from ttc.runtime.decoding.speculative.policy import Policy
from ttc.runtime.decoding.work import Sampled

__all__ = ["DenoiserDrafts", "Lossless"]


@dataclass(slots=True)
class _BlockDraft:
    """A block that the denoiser fills after the pending token; `wanted` tokens of it are of use."""

    plan: Plan
    wanted: int
    block: BlockFilling | None

    @property
    def filling(self) -> BlockFilling | None:
        return self.block if self.block is not None and not self.block.full else None

    @property
    def tokens(self) -> tuple[int, ...]:
        return () if self.block is None else tuple(self.block.block[1 : 1 + self.wanted].tolist())


class DenoiserDrafts:
    """Drafts by the denoiser, as much and in as many evaluations as the policy says."""

    def __init__(self, policy: Policy, mask_id: int, any_width: bool, room: int) -> None:
        """any_width: whether a block may be only as wide as the draft; else it has the whole size.
        room: most tokens that a row may hold.
        """
        self._policy, self._mask_id, self._any_width, self._room = policy, mask_id, any_width, room
        self.rounds: list[DraftRecord] = []

    def propose(self, row: Row) -> Draft:
        options = row.request.options
        # A row that wants one more token gets it from verification, without a draft.
        wanted = row.request.max_new_tokens - len(row.tokens) - 1
        plan = self._policy.plan(min(options.block_size - 1, wanted, self._room - row.length - 1))
        row.nfe_per_block.append(0)
        if plan.length == 0:
            return _BlockDraft(plan, 0, None)
        block = np.full(plan.length + 1 if self._any_width else options.block_size, self._mask_id, np.int32)
        block[0] = row.tokens[-1]
        return _BlockDraft(plan, plan.length, BlockFilling(block, plan.steps, self._mask_id, redraw=False))

    def observe(self, row: Row, draft: Draft, accepted: int) -> DraftRecord:
        assert isinstance(draft, _BlockDraft), "drafts come from propose"
        self.rounds.append(DraftRecord(draft.plan, len(draft.tokens), row.nfe_per_block[-1], accepted))
        self._policy.learn(self.rounds[-1])
        return self.rounds[-1]


class Lossless(Speculative):
    """One row of mode "lossless"."""

    def __init__(self, drafter: DenoiserDrafts, policy: Policy) -> None:
        super().__init__(drafter)
        self._drafts, self._policy = drafter, policy

    def start(self, row: Row, sampled: Sampled | None) -> None:
        """Begin; the prompt's next token took no denoiser evaluation."""
        row.nfe_per_block.append(0)
        super().start(row, sampled)

    def figures(self, row: Row) -> LosslessStats:
        """Return the figures of the row's rounds so far."""
        rounds = self._drafts.rounds
        return LosslessStats(
            draft_records=tuple(rounds),
            mean_acceptance_length=len(row.tokens) / len(rounds) if rounds else None,
            acceptance_rate_per_position=acceptance_rate_per_position(rounds),
            costs=self._policy.costs,
            estimates=self._policy.estimates,
        )
