"""What a row does without logits: denoise steps of its blocks, drafts that are accepted, where it ends.

A behaviour answers by the row's own place in its answer, never by calls or neighbours: so, as with a model,
what a row needs does not depend on the company it is in.
"""

import math
import random
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Protocol

from ttc.errors import InputError

__all__ = [
    "Behaviour",
    "Drawn",
    "FixedSteps",
    "MeasuredSteps",
    "PublishedSteps",
    "StepsPerBlock",
    "acceptance_for",
]


class Behaviour(Protocol):
    """One row's way. `answer_tokens`: the last of them is eos, if the row does not end before by length."""

    answer_tokens: int

    def commits(self, block: int, step: int, masked: int, left: int) -> int:
        """Return how many positions a denoise step commits.

        Args:
            block, step: the block (of a draft: the round) and the step in it, from 0.
            masked: positions that are masked.
            left: steps left by the request's limit, this one included.
        """

    def accepts(self, drafted: int) -> int:
        """Return how many of the next draft's tokens verification accepts."""


class StepsPerBlock(Protocol):
    """How many denoise steps a block takes, as far as the request's limit allows."""

    def draw(self, rng: random.Random, block: int, blocks: int) -> int:
        """Return the steps of block `block` of `blocks`."""


@dataclass(frozen=True, slots=True)
class FixedSteps:
    """Every block takes as many."""

    steps: int

    def draw(self, rng: random.Random, block: int, blocks: int) -> int:
        return self.steps


@dataclass(frozen=True, slots=True)
class MeasuredSteps:
    """As often as they were counted.

    counts: of every block from the first on, steps → answers; the last counts for all blocks after it.
    """

    counts: tuple[Mapping[int, int], ...]

    def draw(self, rng: random.Random, block: int, blocks: int) -> int:
        counts = self.counts[min(block, len(self.counts) - 1)]
        return rng.choices(list(counts), list(counts.values()))[0]


# docs/model.md, Real sizes: early blocks take 10 to 13 steps, late ones about 2.
_EARLY_STEPS, _LATE_STEPS = (10, 11, 12, 13), 2


@dataclass(frozen=True, slots=True)
class PublishedSteps:
    """Blocks at the beginning of an answer take 10 to 13 steps, later ones 2.

    The published figures say no more than that, and a mean of tokens per NFE: the share of early blocks is
    the one that makes the mean. It must be a mean that such a mixture can have: for blocks of 16 from 1.39 to
    8 tokens per NFE.
    """

    tokens_per_nfe: float
    block_size: int = 16

    def __post_init__(self) -> None:
        if not 0 <= self.early_share <= 1:
            low, high = self.block_size / _mean_early(), self.block_size / _LATE_STEPS
            raise InputError(
                f"{self.tokens_per_nfe:g} tokens per NFE with blocks of {self.block_size}; valid for the "
                f"published steps per block: {low:.2f} to {high:.2f}, or a fixed number of steps"
            )

    @property
    def early_share(self) -> float:
        """The share of blocks that are early ones."""
        return (self.block_size / self.tokens_per_nfe - _LATE_STEPS) / (_mean_early() - _LATE_STEPS)

    def draw(self, rng: random.Random, block: int, blocks: int) -> int:
        early = (block + rng.random()) / blocks < self.early_share
        return rng.choice(_EARLY_STEPS) if early else _LATE_STEPS


def _mean_early() -> float:
    return sum(_EARLY_STEPS) / len(_EARLY_STEPS)


class Drawn:
    """Drawn from distributions, with a seed of the row's own."""

    def __init__(
        self, seed: int, answer_tokens: int, block_size: int, steps: StepsPerBlock | None, acceptance: float
    ) -> None:
        """steps: of blocks; None where the denoiser drafts, which takes the steps it is allowed.
        acceptance: the probability that a drafted token is accepted if all before it were.
        """
        self.answer_tokens = answer_tokens
        self._rng, self._steps, self._acceptance = random.Random(seed), steps, acceptance
        self._blocks = -(-answer_tokens // block_size)
        self._block, self._planned = -1, 0

    def commits(self, block: int, step: int, masked: int, left: int) -> int:
        """Return an even share of what is masked, so that the block takes the steps that were drawn."""
        if self._steps is None:
            return -(-masked // left)
        if block != self._block:
            self._block, self._planned = block, self._steps.draw(self._rng, block, self._blocks)
        return -(-masked // max(min(self._planned - step, left), 1))

    def accepts(self, drafted: int) -> int:
        accepted = 0
        while accepted < drafted and self._rng.random() < self._acceptance:
            accepted += 1
        return accepted


def acceptance_for(kept: float, drafted: int) -> float:
    """Return the acceptance per position with which rounds of so many drafted tokens keep `kept` tokens on
    average, AR's own included: kept = 1 + Σ_{i ≤ drafted} aⁱ.
    """
    if not 1 <= kept < drafted + 1:
        raise InputError(f"{kept:g} tokens kept of {drafted} drafted and AR's own; valid: 1 to {drafted + 1}")
    low, high = 0.0, 1.0
    while high - low > 1e-9:
        middle = (low + high) / 2
        mean = 1 + math.fsum(middle**i for i in range(1, drafted + 1))
        low, high = (middle, high) if mean < kept else (low, middle)
    return low
