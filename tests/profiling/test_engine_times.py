"""`ttc run` on a fake device and a fake TensorRT: what it runs, times, gives back and refuses."""

import json

import pytest

from tests.support import fake_engines
from tests.support.command_line import ask, refused, run
from tests.support.fake_device import FakeDevice
from ttc.profiling import engine_times
from ttc.profiling.engine_times import EngineTimes, time_engines


@pytest.fixture
def engines(bundles, tmp_path, monkeypatch):
    """A set of whole engines, and the device they come onto."""
    fake, device = fake_engines.install(monkeypatch), FakeDevice()
    monkeypatch.setattr(engine_times, "backend_version", lambda backend: "1.7.0.1")
    monkeypatch.setattr(engine_times, "CudaDevice", lambda index, backend: device)
    folder = fake_engines.write_engines(bundles("tiny_a"), tmp_path / "engines", "whole")
    return folder, fake, device


def test_every_engine_is_run_and_everything_given_back(engines):
    folder, fake, device = engines
    found = time_engines(folder, ["step"], iterations=5, warm_up=2)
    assert [one.name for one in found] == ["step"]
    assert fake.calls.count("execute") == 7
    assert len(found[0].seconds) == 5
    assert list(found[0].seconds) == sorted(found[0].seconds)
    assert min(found[0].seconds) > 0
    assert not device.blocks
    record = json.loads((folder / "engines.json").read_text())["engines"]["step"]
    assert {name: list(shape) for name, shape in found[0].inputs.items()} == {
        tensor["name"]: tensor["opt"] for tensor in record["inputs"]
    }


def test_the_command(engines):
    folder, *_ = engines
    done = run("run", folder, "step", "--iterations", 3, "--at", "max")
    assert done.exit_code == 0, done.stderr
    head, *_ = (line for line in done.stdout.splitlines() if line.startswith("engine"))
    assert head.split() == ["engine", "p50", "p90", "p99", "least", "most", "inputs"]
    found = ask("run", folder, "step", "--iterations", 3)
    assert len(found["engines"][0]["seconds"]) == 3


def test_percentiles_are_nearest_ranks() -> None:
    times = EngineTimes("x", {}, tuple(range(1, 101)))
    assert [times.percentile(share) for share in (0.5, 0.9, 0.99, 1.0, 0.0)] == [50, 90, 99, 100, 1]
    assert EngineTimes("x", {}, (7.0,)).percentile(0.99) == 7.0


def test_refusals(engines, tmp_path):
    folder, fake, device = engines
    assert "no engine 'stp' (did you mean 'step'?); it has: " in refused("run", folder, "stp")
    assert "engines are timed on one GPU" in refused("run", folder, "--device", "cuda:0,cuda:1")
    assert "a set of engines is a folder made by `ttc build`" in refused("run", tmp_path)
    fake.refuse = "execute"
    done = run("run", folder, "step")
    assert done.exit_code == 1
    assert done.stderr.splitlines()[-1].startswith("error: engine step: does not run")
    assert not device.blocks
