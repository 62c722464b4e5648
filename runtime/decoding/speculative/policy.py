"""How much to draft, and in how many denoiser evaluations.

A round that drafts n tokens in at most T steps, and accepts them with probability a_j at position j if all
before were accepted, gives and costs

    tokens(n, T)  = 1 + Σ_{i ≤ n} Π_{j ≤ i} a_j(T)
    seconds(n, T) = verify(n + 1) + steps(T) · draft_step(n + 1)            (one AR step where n = 0)

and `AutoPolicy` takes the (n, T) with the most tokens per second. The costs are measured per block size, for
one row over a short context; a_j(T), and steps(T) that a limit of T really takes, are running estimates.
Both outlive a row in the engine's `DraftPolicies`.
"""

import threading
from dataclasses import dataclass
from typing import Any, Protocol

import numpy as np
import numpy.typing as npt

from ttc.runtime.decoding.draft_stats import Costs, DraftRecord, Plan
from ttc.runtime.decoding.limits import fitting_capacity
from ttc.runtime.decoding.options import CheckedOptions
from ttc.runtime.decoding.speculative.acceptance import AcceptanceEstimator, expected_tokens
from ttc.runtime.decoding.speculative.costs import elementwise_min, measure
from ttc.runtime.interface.backend import Backend

__all__ = ["AutoPolicy", "DraftHistory", "DraftPolicies", "FixedPolicy", "Policy"]

# Limits on the steps that are considered; between neighbours the difference in a draft's quality is small.
_LIMITS = (1, 2, 3, 4, 6, 8, 12, 16)
# A limit is tried this often before it is judged. After that a neighbour of the best is tried every so many
# rounds: more often while it may still turn out better.
_TRIALS, _PROMISING_ROUNDS, _RETRY_ROUNDS = 3, 16, 64
# Every call is measured this often before the first round, and so often in all.
_FIRST_TURNS, _MOST_TURNS = 5, 10
_MOST_REMEMBERED = 64


class Policy(Protocol):
    """Chooses a plan per round, and may learn from what verification said."""

    @property
    def costs(self) -> Costs | None:
        """What was measured, if anything."""

    @property
    def estimates(self) -> dict[int, tuple[float, ...]]:
        """Limit on the steps → a_j per drafted position, as estimated so far."""

    def plan(self, most: int) -> Plan:
        """Return the next round's plan; drafting more than `most` ≥ 0 tokens is of no use, or has no room."""

    def learn(self, outcome: DraftRecord) -> None:
        """Learn from what became of one row's round."""


@dataclass(frozen=True, slots=True)
class FixedPolicy:
    """The whole block in at most so many steps."""

    steps: int

    @property
    def costs(self) -> None:
        """Nothing is measured."""

    @property
    def estimates(self) -> dict[int, tuple[float, ...]]:
        """Nothing is estimated."""
        return {}

    def plan(self, most: int) -> Plan:
        """Return all that can be drafted."""
        return Plan(most, self.steps if most else 0, "asked for", None, None)

    def learn(self, outcome: DraftRecord) -> None:
        """Nothing to learn."""


class DraftHistory:
    """What drafts brought under one set of options. Shared by threads: hold `lock` to use it."""

    def __init__(self, block_size: int, max_steps: int) -> None:
        positions = block_size - 1
        limits = [limit for limit in _LIMITS if limit <= min(max_steps, positions)]
        self.estimator = AcceptanceEstimator(limits, positions)
        self.num_plans = 0
        self.lock = threading.Lock()


@dataclass(frozen=True, slots=True)
class AutoPolicy:
    """The best plan by measured costs and running acceptance.

    Limits of 1 and 2 steps are tried first. From then on the best known limit is used, but a neighbour of it
    is tried every 16 rounds while it may still turn out better, and every 64 rounds in any case. Where no
    draft pays it makes AR steps, whose neighbours are the limits 1 and 2.
    """

    costs: Costs
    history: DraftHistory

    @property
    def estimates(self) -> dict[int, tuple[float, ...]]:
        """For the limits that were tried."""
        with self.history.lock:
            estimator = self.history.estimator
            rates = estimator.acceptance.tolist()
            return {
                limit: tuple(rates[k]) for k, limit in enumerate(estimator.limits) if estimator.num_drafts[k]
            }

    def plan(self, most: int) -> Plan:
        """Return the next round's plan, drafting up to `most` tokens."""
        if most == 0:
            return Plan(0, 0, "nothing to draft", 1.0, self.costs.ar_step)
        with self.history.lock:
            self.history.num_plans += 1
            estimator, lengths = self.history.estimator, np.arange(1, most + 1)
            acceptance = estimator.acceptance
            tokens = expected_tokens(acceptance[:, :most])  # (K, most)
            seconds = self.costs.round(lengths, np.minimum(estimator.steps[:, None], lengths))
            rates = np.where(estimator.num_drafts[:, None] < _TRIALS, 0.0, tokens / seconds)
            k, i = divmod(int(np.argmax(rates)), most)
            drafting_pays = rates[k, i] * self.costs.ar_step > 1
            to_beat = rates[k, i] if drafting_pays else 1 / self.costs.ar_step
            best_case = expected_tokens(estimator.upper_bound(acceptance)[:, :most]) / seconds
            trial = self._to_try(k if drafting_pays else None, best_case.max(-1) > to_beat)
        if trial is None and not drafting_pays:
            return Plan(0, 0, "best", 1.0, self.costs.ar_step)
        if trial is not None:
            k, i = trial, most - 1
        reason = "best" if trial is None else "trial"
        return Plan(i + 1, estimator.limits[k], reason, float(tokens[k, i]), float(seconds[k, i]))

    def learn(self, outcome: DraftRecord) -> None:
        """Learn from what became of one row's round."""
        if outcome.drafted:
            with self.history.lock:
                limit = outcome.plan.steps
                self.history.estimator.add(limit, outcome.drafted, outcome.steps, outcome.accepted)

    def _to_try(self, best: int | None, may_be_better: npt.NDArray[np.bool_]) -> int | None:
        """Return the index of a limit to try in this round, if any; `best` None stands for the AR step."""
        estimator = self.history.estimator
        all_limits = range(len(estimator.limits))
        near = list(all_limits[:2]) if best is None else [k for k in (best - 1, best + 1) if k in all_limits]
        unjudged = [k for k in near if estimator.num_drafts[k] < _TRIALS]
        if unjudged:
            return unjudged[0]
        promising = [k for k in near if may_be_better[k]]
        for candidates, apart in ((promising, _PROMISING_ROUNDS), (near, _RETRY_ROUNDS)):
            turn, rest = divmod(self.history.num_plans, apart)
            if candidates and rest == 0:
                return candidates[turn % len(candidates)]
        return None


class DraftPolicies:
    """Makes the policies of a backend's generations out of what the earlier ones measured. Thread-safe."""

    def __init__(self, backend: Backend, room: int) -> None:
        """room: most tokens that a row may hold."""
        self._backend, self._room = backend, room
        self._costs: dict[Any, tuple[Costs, int]] = {}
        self._histories: dict[Any, DraftHistory] = {}
        self._lock = threading.Lock()

    def policy(self, options: CheckedOptions) -> Policy:
        """Return the policy of a row.

        Measures the costs for one row where the block is new, and once more for each of the next rows, until
        a busy moment at the start can no longer have spoiled the figures.
        """
        backend, room = self._backend, self._room
        if options.draft_steps is not None:
            return FixedPolicy(options.draft_steps)
        needed = min(2 * options.block_size, room)
        wanted = max(min(backend.sizes.bucket(needed), room), needed)
        capacity = fitting_capacity(backend.limits, needed, wanted)
        o, shape = options, (1, capacity, options.block_size)
        sampling = (o.temperature, o.top_k, o.top_p, o.eos_token_ids)
        # A grammar rejects drafts that would have been right without it.
        settings = (o.block_size, o.steps, o.threshold, *sampling, o.grammar is None)
        with self._lock:
            costs, turns = self._costs.get(shape, (None, 0))
            if turns < _MOST_TURNS:
                more = 1 if costs else _FIRST_TURNS
                new = measure(backend, *shape, more, warm_up=costs is None)
                costs, turns = elementwise_min(costs, new) if costs else new, turns + more
                _remember(self._costs, shape, (costs, turns))
            if settings not in self._histories:
                _remember(self._histories, settings, DraftHistory(o.block_size, o.steps))
            assert costs is not None, "measured now or before"
            return AutoPolicy(costs, self._histories[settings])


def _remember(entries: dict[Any, Any], key: object, value: object) -> None:
    """Keep the value, and forget the oldest entry if that makes too many."""
    entries[key] = value
    if len(entries) > _MOST_REMEMBERED:
        del entries[next(iter(entries))]
