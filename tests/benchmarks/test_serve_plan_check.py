"""The check of the simulated service, over a second of load."""

import math

import pytest

from benchmarks import serve_plan_check


def test_a_simulated_and_a_measured_load(engines, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(serve_plan_check, "CLIENTS", (1, 2, 4))
    monkeypatch.setattr(serve_plan_check, "REQUESTS_PER_CLIENT", 1)
    monkeypatch.setattr(serve_plan_check, "UTILISATION", 1.0)
    found = serve_plan_check.check(engines("miniature", "onnxruntime", None), "ar", 2.0, "thread")
    simulated, measured = found["simulated"], found["measured"]
    assert simulated["requests"] == measured["requests"] > 1
    tokens = [round(one["tokens_per_second"] * one["seconds"]) for one in (simulated, measured)]
    assert tokens[0] == tokens[1]
    # How near it is, the record says: here other tests may take the processor.
    assert 0 < found["simulated_over_measured"]["whole_p50"] < math.inf


def test_a_clock_of_work_skips_waits() -> None:
    clock = serve_plan_check.WorkClock()
    before = clock.now()
    clock.wait(before + 100.0)
    assert 100.0 <= clock.now() - before < 101.0
    clock.wait(before)
    assert clock.now() - before >= 100.0
