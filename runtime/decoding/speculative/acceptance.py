"""How far drafts are accepted: running estimates per place, for every limit on the steps of a draft."""

from collections.abc import Sequence

import numpy as np
import numpy.typing as npt

__all__ = ["Experience", "expected_tokens"]

# What a round weighs one round later; how many rounds of the average over all places a place starts with.
_MEMORY, _PRIOR_ROUNDS = 0.98, 2.0
Numbers = npt.NDArray[np.float64]


def expected_tokens(acceptance: npt.ArrayLike) -> Numbers:
    """Tokens given by rounds that draft 1, 2, … n tokens: 1 + Σ_{i ≤ n} Π_{j ≤ i} a_j, along the last axis.

    acceptance: a_j, the chance that drafted place j is accepted if all before it were.
    """
    tokens: Numbers = np.asarray(acceptance, np.float64).cumprod(-1).cumsum(-1) + 1.0
    return tokens


class Experience:
    """What has been seen of drafts: K limits on their steps, P places.

    Attributes:
        limits: the K limits, ascending.
        rounds: (K,) rows' rounds seen, ever.
        steps: (K,) denoiser evaluations a draft takes on average; the limit itself before any was seen.
    """

    def __init__(self, limits: Sequence[int], places: int) -> None:
        self.limits = tuple(limits)
        self.rounds = np.zeros(len(limits), np.int64)
        self.steps = np.array(limits, np.float64)
        self._reached, self._accepted = np.zeros((2, len(limits), places))

    def add(self, limit: int, drafted: int, steps: int, accepted: int) -> None:
        """One row's round; places behind the first disagreement tell nothing."""
        k, reached = self.limits.index(limit), min(accepted + 1, drafted)
        self._reached[k, :reached] = self._reached[k, :reached] * _MEMORY + 1
        self._accepted[k, :reached] *= _MEMORY
        self._accepted[k, :accepted] += 1
        self.rounds[k] += 1
        self.steps[k] += max(1 - _MEMORY, 1 / self.rounds[k]) * (steps - self.steps[k])

    @property
    def acceptance(self) -> Numbers:
        """a_j (K, P): what was seen at a place, drawn towards the average over all places of the limit."""
        average = (self._accepted.sum(-1, keepdims=True) + 1) / (self._reached.sum(-1, keepdims=True) + 2)
        seen, prior = self._accepted + _PRIOR_ROUNDS * average, self._reached + _PRIOR_ROUNDS
        rates: Numbers = seen / prior
        return rates

    def hopeful(self, acceptance: Numbers) -> Numbers:
        """a_j (K, P) one standard error better than estimated; all rounds ever seen make that smaller."""
        error = np.sqrt(acceptance * (1 - acceptance) / (1 + self.rounds[:, None]))
        better: Numbers = np.minimum(acceptance + error, 1.0)
        return better
