"""The data of lossless decoding: what a round costs, what was planned, what came of it."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

__all__ = ["Costs", "DraftRecord", "LinearCost", "LosslessStats", "Plan", "acceptance_rate_per_position"]


@dataclass(frozen=True, slots=True)
class LinearCost:
    """Seconds of a call, linear in its width (tokens per row): the line through two measured widths."""

    narrow: int
    wide: int
    narrow_seconds: float
    wide_seconds: float

    def at(self, width: Any) -> Any:
        """Return seconds at a width, or at every width of an array.

        Never below a tenth of the narrow one's, however noisy the two measurements were.
        """
        slope = (self.wide_seconds - self.narrow_seconds) / max(self.wide - self.narrow, 1)
        return np.maximum(self.narrow_seconds + slope * (width - self.narrow), 0.1 * self.narrow_seconds)


@dataclass(frozen=True, slots=True)
class Costs:
    """Seconds of the calls a round consists of, for one batch size and capacity.

    Attributes:
        ar_step: a context call of one token.
        verify: a context call that saves, and the advance after it.
        draft_step: a denoiser evaluation and the diffusion step after it.
    """

    ar_step: float
    verify: LinearCost
    draft_step: LinearCost

    def round(self, length: Any, steps: Any) -> Any:
        """Return seconds of a round that drafts `length` ≥ 1 tokens in so many denoiser evaluations.

        Numbers or arrays.
        """
        return self.verify.at(length + 1) + steps * self.draft_step.at(length + 1)


@dataclass(frozen=True, slots=True)
class Plan:
    """What a policy chose for a round, and on what grounds.

    Attributes:
        length: tokens to draft; 0 makes an AR step.
        steps: most denoiser evaluations for that.
        reason: "asked for", "best" of the known plans, "trial" of one not known yet or not lately, or
            "nothing to draft" where one token is wanted or the cache has room for no more.
        expected_tokens, expected_seconds: what the policy's estimates say of it; None where the plan was
            asked for.
    """

    length: int
    steps: int
    reason: str
    expected_tokens: float | None
    expected_seconds: float | None


@dataclass(frozen=True, slots=True)
class DraftRecord:
    """What became of one row's draft in one round.

    Attributes:
        plan: as chosen for all rows of the batch.
        drafted: tokens of this row's draft; fewer than planned where the row wants fewer.
        steps: denoiser evaluations they took.
        accepted: how many of them are AR's own text; the bonus token comes on top.
    """

    plan: Plan
    drafted: int
    steps: int
    accepted: int


@dataclass(frozen=True, slots=True)
class LosslessStats:
    """Figures of one row's lossless generation.

    Attributes:
        draft_records: every round; the prompt's next token comes without one.
        mean_acceptance_length: new tokens per round, the bonus token included, as in vLLM; None without a
            round. Beyond vLLM's 1 + accepted / drafts, rounds without a draft count too, the prompt's next
            token is a new one, and tokens cut at the end are none.
        acceptance_rate_per_position: the share of drafts accepted at a drafted position, of those accepted up
            to it; None where none came so far. The rate per position in vLLM is of all drafts: with drafts of
            one length, the product of these rates up to the position. The bonus token has no position.
        costs: what the policy measured; None where nothing was left to it.
        estimates: limit on the steps → the policy's acceptance per drafted position, after this generation;
            empty where nothing was left to it.
    """

    draft_records: tuple[DraftRecord, ...]
    mean_acceptance_length: float | None
    acceptance_rate_per_position: tuple[float | None, ...]
    costs: Costs | None
    estimates: Mapping[int, tuple[float, ...]]


def acceptance_rate_per_position(rounds: Sequence[DraftRecord]) -> tuple[float | None, ...]:
    """Return, per drafted position, accepted drafts over those accepted up to it; see `LosslessStats`."""
    shares: list[float | None] = []
    for i in range(max((each.drafted for each in rounds), default=0)):
        reached = [each for each in rounds if each.drafted > i and each.accepted >= i]
        accepted = sum(each.accepted > i for each in reached)
        shares.append(accepted / len(reached) if reached else None)
    return tuple(shares)
