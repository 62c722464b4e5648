"""A clock that stands still or is set back: no division by zero, no negative time."""

import itertools
import time

import pytest

from tests.support.golden import golden
from ttc.base.clock import TICK_SECONDS, passed
from ttc.bench.cases import make_cases
from ttc.bench.run import Plan, run_cases
from ttc.demo.miniature import total
from ttc.profiling.costs import measure_limits
from ttc.runtime.decoding.clock import WallClock


@pytest.fixture(params=["still", "back"])
def clock(request, monkeypatch):
    ticks = itertools.count(1000.0, -0.5)
    monkeypatch.setattr(time, "perf_counter", lambda: 1000.0 if request.param == "still" else next(ticks))


def test_durations_are_never_nothing():
    assert passed(1.0, 1.0) == passed(1.0, 0.5) == TICK_SECONDS
    assert passed(1.0, 3.0) == 2.0


def test_the_engines_clock_does_not_run_back(clock):
    watch = WallClock()
    times = [watch.now() for _ in range(4)]
    assert times == sorted(times)


def test_statistics_of_a_generation(engines, clock):
    engine = engines("tiny_a", "onnxruntime")
    prompt = golden("tiny_a").vectors["prompt/p05"][0].tolist()
    for mode in ("diffusion", "ar", "lossless"):
        stats = engine.generate(prompt, mode, max_new_tokens=4).stats
        assert stats.seconds > 0
        assert stats.tokens_per_second > 0
        assert stats.backend_seconds >= 0
        assert total(mode, [engine.generate(prompt, mode, max_new_tokens=4)]).tokens_per_second > 0


def test_a_bench(engines, clock):
    plan = Plan(
        make_cases(("ar", "diffusion"), (0.9,), None, (16,), False),
        [golden("tiny_a").vectors["prompt/p05"][0].tolist()] * 2,
        None, 2, (1,), 1, 4, 0.0, 0,
    )  # fmt: skip
    for case in run_cases(engines("tiny_a", "onnxruntime"), plan):
        for speed in case.speed:
            assert 0 < speed.tokens_per_second < float("inf")
            assert min(speed.first_output.p50, speed.first_block.p50) >= 0


def test_the_measured_machine(clock):
    assert all(0 < value < float("inf") for value in measure_limits().values())
