"""The drafting policy: what it measures, what it learns, what it chooses."""

import dataclasses
import threading

import numpy as np
import pytest

from tests.support.chains import Chain
from tests.support.golden import golden
from ttc.runtime.decoding.draft_stats import (
    Costs,
    DraftRecord,
    LinearCost,
    acceptance_rate_per_position,
)
from ttc.runtime.decoding.speculative.acceptance import AcceptanceEstimator, expected_tokens
from ttc.runtime.decoding.speculative.costs import elementwise_min, measure
from ttc.runtime.decoding.speculative.policy import AutoPolicy, DraftHistory
from ttc.runtime.engine import Engine

# In AR steps: a draft step of 16 tokens costs 1.4, a verification 2.
CPU = Costs(1.0, LinearCost(2, 16, 1.2, 2.0), LinearCost(2, 16, 1.0, 1.4))
# Where weights are what is read, the width costs nothing.
GPU = Costs(1.0, LinearCost(2, 16, 1.05, 1.05), LinearCost(2, 16, 1.0, 1.0))
DEAR_DRAFTS = Costs(1.0, LinearCost(2, 16, 1.05, 1.05), LinearCost(2, 16, 9.0, 9.0))


def play(costs, quality, rounds, history=None, block_size=16, seed=0):
    """Rounds in which a draft of T steps is right with probability quality(T) at each place."""
    policy, draw = AutoPolicy(costs, history or DraftHistory(block_size, 16)), np.random.default_rng(seed)
    plans = []
    for _ in range(rounds):
        plan = policy.plan(block_size - 1)
        right = draw.random(plan.length) < (quality(plan.steps) if plan.length else 0)
        accepted = int(np.argmin([*right, False]))
        policy.learn(DraftRecord(plan, plan.length, plan.steps, accepted))
        plans.append(plan)
    return policy, plans


def test_useless_drafts_give_way_to_ar_steps():
    """After a few trials, and but for one try in 64 rounds."""
    policy, plans = play(CPU, lambda steps: 0.0, 300)
    assert {plan.steps for plan in plans} == {0, 1, 2}
    assert [plan.reason for plan in plans[:6]] == ["trial"] * 6
    late = plans[6:]
    assert sum(plan.length > 0 for plan in late) == 4
    assert all(plan == dataclasses.replace(late[0]) for plan in late if plan.length == 0)
    assert max(policy.estimates[1]) < 0.3


def test_perfect_drafts_of_one_step_fill_the_block():
    _, plans = play(CPU, lambda steps: 1.0, 120)
    assert {(plan.length, plan.steps) for plan in plans if plan.reason == "best"} == {(15, 1)}


def test_more_steps_where_they_pay():
    """Four steps make drafts much better: worth it where a step costs an AR step, not where it costs nine.

    Bad luck in the first trials of a limit does not rule it out.
    """

    def quality(steps):
        return {1: 0.5, 2: 0.8, 3: 0.93, 4: 0.98}.get(steps, 0.98)

    for seed in range(10):
        _, plans = play(GPU, quality, 400, seed=seed)
        assert {plan.steps for plan in plans[200:] if plan.reason == "best"} <= {3, 4}, f"seed {seed}"
    _, plans = play(DEAR_DRAFTS, quality, 400)
    assert {plan.steps for plan in plans[200:] if plan.reason == "best"} == {0}


def test_short_drafts_where_width_costs_and_acceptance_is_low():
    wide = Costs(1.0, LinearCost(2, 16, 1.0, 4.0), LinearCost(2, 16, 0.3, 1.2))
    _, plans = play(wide, lambda steps: 0.6, 200)
    chosen = [plan.length for plan in plans[50:] if plan.reason == "best"]
    assert 1 <= min(chosen) <= max(chosen) < 8


def test_it_notices_that_drafts_became_good():
    history = DraftHistory(16, 16)
    play(GPU, lambda steps: 0.0, 200, history)
    _, plans = play(GPU, lambda steps: 1.0, 900, history)
    assert plans[-1].length == 15


@pytest.mark.parametrize(("block_size", "max_steps"), [(1, 16), (2, 16), (4, 2), (16, 1)])
def test_limits_are_kept(block_size, max_steps):
    policy = AutoPolicy(GPU, DraftHistory(block_size, max_steps))
    for most in [*range(block_size), block_size - 1]:
        plan = policy.plan(most)
        assert plan.length <= most
        assert plan.steps <= min(max_steps, plan.length)
        policy.learn(DraftRecord(plan, plan.length, plan.steps, plan.length))
    assert policy.plan(0).reason == "nothing to draft"


def test_expected_tokens():
    assert expected_tokens([0.5, 0.5, 1.0]).tolist() == [1.5, 1.75, 2.0]
    assert expected_tokens(np.ones((2, 3))).tolist() == [[2, 3, 4]] * 2


def test_the_estimator_counts_what_was_reached():
    """Nothing is learned after a disagreement; what is old weighs less."""
    estimator = AcceptanceEstimator((1, 4), 3)
    for _ in range(500):
        estimator.add(4, 3, 2, 1)
    rates = estimator.acceptance[1]
    assert rates[0] > 0.98
    assert rates[1] < 0.03
    assert rates[2] == pytest.approx((estimator._accepted[1].sum() + 1) / (estimator._reached[1].sum() + 2))
    assert estimator.steps.tolist() == [1.0, pytest.approx(2.0)]
    for _ in range(100):
        estimator.add(4, 3, 4, 0)
    assert estimator.acceptance[1][0] < 0.2
    assert estimator.steps[1] > 3.5


def test_acceptance_rate_per_position():
    plan = AutoPolicy(CPU, DraftHistory(4, 4)).plan(3)
    rounds = [
        DraftRecord(plan, 3, 1, 3),
        DraftRecord(plan, 3, 1, 1),
        DraftRecord(plan, 1, 1, 1),
        DraftRecord(plan, 3, 1, 0),
    ]
    assert acceptance_rate_per_position(rounds) == (0.75, 0.5, 1.0)
    assert acceptance_rate_per_position([DraftRecord(plan, 2, 1, 0)]) == (0.0, None)
    assert acceptance_rate_per_position([]) == ()


@pytest.mark.parametrize("capacity", [1, 2, 64])
def test_costs_are_measured(engines, backend, capacity):
    costs = measure(engines("tiny_a", backend).runner, 2, capacity, 16, turns=2, warm_up=True)
    assert costs.ar_step > 0
    for line in (costs.verify, costs.draft_step):
        assert line.narrow_seconds > 0
        assert line.at(line.narrow) == pytest.approx(line.narrow_seconds)
        assert line.at(line.wide) > 0
    assert costs.round(3, 2) == pytest.approx(costs.verify.at(4) + 2 * costs.draft_step.at(4))


def test_an_engine_remembers():
    """Costs are kept per block size, acceptance is carried on; each setting has its own."""
    config = golden("tiny_a").config
    logits = np.random.default_rng(0).standard_normal((config.vocab_size,) * 2).astype(np.float32)
    logits[:, config.mask_token_id] = -9
    engine = Engine(Chain(config, logits, 1.0))

    def stats(**options):
        given = {"max_new_tokens": 60, "stop_at_eos": False} | options
        return engine.generate([1, 2], "lossless", **given).stats.lossless

    first, second = stats(), stats()
    assert second.costs == elementwise_min(first.costs, second.costs), "measured again, and the better kept"
    assert first.draft_records[0].plan.reason == "trial"
    assert second.estimates[1][0] > first.estimates[1][0] or second.estimates[1][0] > 0.95
    for _ in range(20):
        last = stats()
    assert stats().costs is stats().costs, "not measured for ever"
    assert last.costs == elementwise_min(first.costs, last.costs)
    assert stats(max_new_tokens=200).costs == last.costs
    other = stats(block_size=8)
    assert other.costs != last.costs
    assert len(other.estimates[1]) == 7
    assert stats(draft_steps=2).costs is None
    assert stats(draft_steps=2).estimates == {}


def test_threads_share_what_is_learned():
    history = DraftHistory(16, 16)
    threads = [
        threading.Thread(target=play, args=(GPU, lambda steps: 0.7, 200, history), kwargs={"seed": i})
        for i in range(4)
    ]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert history.num_plans == 800
    assert history.estimator.num_drafts.sum() <= 800
