"""`ttc build` and `ttc cache` as commands."""

import json
import re

import pytest
from click.testing import CliRunner

from ttc.commands.build import build, parse_shapes, parse_targets
from ttc.commands.cache import cache
from ttc.errors import InputError

pytest.importorskip("tensorrt_rtx", reason="TensorRT-RTX is not installed")


@pytest.fixture
def run(tmp_path, monkeypatch):
    monkeypatch.setenv("TTC_CACHE_DIR", str(tmp_path / "cache"))
    runner = CliRunner()

    def call(command, *words):
        result = runner.invoke(command, [str(word) for word in words])
        if result.exception and not isinstance(result.exception, SystemExit):
            raise result.exception
        return result

    return call


def test_build_and_cache(run, bundles, tmp_path):
    step, out = bundles("tiny_a") / "step.onnx", tmp_path / "out"
    first = json.loads(
        run(build, step, "-o", out, "--json", "--sm", "89,120", "--max-shapes", "batch:2").stdout
    )
    assert first["targets"] == ["8.9", "12.0"]
    assert first["graphs"][0]["engines"].keys() == {"step"}
    assert not first["graphs"][0]["cached"]
    stages = first["graphs"][0]["stages"]
    assert list(stages) == ["parse", "build", "write"]
    assert all(one["seconds"] > 0 and one["peak_bytes"] > 2**20 for one in stages.values())
    assert stages["parse"]["seconds"] + stages["build"]["seconds"] < first["graphs"][0]["seconds"]
    assert stages["parse"]["peak_bytes"] <= stages["build"]["peak_bytes"] == first["graphs"][0]["peak_bytes"]
    again = run(build, step, "-o", out, "--sm", "89,120", "--max-shapes", "batch:2")
    assert re.search(r"from the cache; write \d+\.\d s, peak [\d.]+ [MG]iB", again.stdout)
    listed = json.loads(run(cache, "ls", "--json").stdout)
    assert [entry["role"] for entry in listed["entries"]] == ["step"]
    assert "1 entries" in run(cache, "ls").stdout
    assert "1 entries deleted" in run(cache, "clear").stdout
    assert json.loads(run(cache, "ls", "--json").stdout)["entries"] == []


def test_dry_run_builds_nothing(run, bundles, tmp_path):
    bundle = bundles("tiny_a")
    shown = run(build, bundle, "--dry-run", "-o", tmp_path / "out")
    assert shown.exit_code == 0
    assert "denoiser  weights" in shown.stdout
    assert "note      profile latency, with its sizes lowered to the model's 4096 positions" in shown.stdout
    plan = json.loads(run(build, bundle, "--dry-run", "--json").stdout)
    assert [graph["role"] for graph in plan["graphs"]] == ["context", "denoiser", "step", "advance"]
    refused = run(build, bundle, "--dry-run", "--profile", "h100")
    assert refused.exit_code == 1
    assert "problem   target 9.0" in refused.stdout
    assert "problem   profile h100: capacity.max is 8192, but the model has 4096 positions" in refused.stdout
    assert not (tmp_path / "out").exists()


def test_sizes_and_targets() -> None:
    assert parse_targets("89, 12.0,89") == ("8.9", "12.0")
    assert parse_shapes({"min": None, "max": "batch:8, capacity:4096"}) == {
        "batch": {"max": 8},
        "capacity": {"max": 4096},
    }
    with pytest.raises(InputError, match="'hopper' is no compute capability; valid: numbers like 89,120"):
        parse_targets("hopper")
    for text in ("batch=8", "batch:x", ":8", "batch"):
        with pytest.raises(InputError, match="valid: NAME:NUMBER"):
            parse_shapes({"max": text})
