"""How far drafts are accepted: running estimates per drafted position, for every limit on a draft's steps."""

from collections.abc import Sequence

import numpy as np
import numpy.typing as npt

__all__ = ["AcceptanceEstimator", "expected_tokens"]

# The weight that a draft keeps with every later one; how many drafts of the average over all positions a
# position starts with.
_DECAY, _PRIOR_DRAFTS = 0.98, 2.0
Numbers = npt.NDArray[np.float64]


def expected_tokens(acceptance: npt.ArrayLike) -> Numbers:
    """Return the tokens that rounds with 1, 2, … n drafted tokens give: 1 + Σ_{i ≤ n} Π_{j ≤ i} a_j.

    The 1 is the bonus token (Leviathan, Kalman and Matias 2023, with a rate of its own for every position).

    Args:
        acceptance: (…, n), a_j: the probability that drafted position j is accepted if all before it were.
    """
    tokens: Numbers = np.asarray(acceptance, np.float64).cumprod(-1).cumsum(-1) + 1.0
    return tokens


class AcceptanceEstimator:
    """Estimates, for K limits on a draft's steps and P drafted positions, what is accepted.

    Attributes:
        limits: the K limits, ascending.
        num_drafts: (K,) drafts seen, ever; every row of a batch counts.
        steps: (K,) denoiser evaluations a draft takes on average; the limit itself before any was seen.
    """

    def __init__(self, limits: Sequence[int], positions: int) -> None:
        self.limits = tuple(limits)
        self.num_drafts = np.zeros(len(limits), np.int64)
        self.steps = np.array(limits, np.float64)
        self._reached, self._accepted = np.zeros((2, len(limits), positions))

    def add(self, limit: int, drafted: int, steps: int, accepted: int) -> None:
        """Count one row's draft; positions after the first disagreement tell nothing."""
        k, reached = self.limits.index(limit), min(accepted + 1, drafted)
        self._reached[k, :reached] = self._reached[k, :reached] * _DECAY + 1
        self._accepted[k, :reached] *= _DECAY
        self._accepted[k, :accepted] += 1
        self.num_drafts[k] += 1
        self.steps[k] += max(1 - _DECAY, 1 / self.num_drafts[k]) * (steps - self.steps[k])

    @property
    def acceptance(self) -> Numbers:
        """a_j (K, P): what was seen at a position, drawn towards the average over all of the limit's."""
        average = (self._accepted.sum(-1, keepdims=True) + 1) / (self._reached.sum(-1, keepdims=True) + 2)
        seen, prior = self._accepted + _PRIOR_DRAFTS * average, self._reached + _PRIOR_DRAFTS
        rates: Numbers = seen / prior
        return rates

    def upper_bound(self, acceptance: Numbers) -> Numbers:
        """Return a_j (K, P), one standard error better than estimated; drafts ever seen make the error small.

        The limits that may still turn out better are tried again, as in UCB (upper confidence bounds, Auer
        et al. 2002).
        """
        error = np.sqrt(acceptance * (1 - acceptance) / (1 + self.num_drafts[:, None]))
        better: Numbers = np.minimum(acceptance + error, 1.0)
        return better
