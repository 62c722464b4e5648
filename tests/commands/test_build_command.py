"""`ttc build` and `ttc cache` as commands."""

import json
import re
import shutil
from pathlib import Path

import pytest
from click.testing import CliRunner

import ttc
from tests.support.build_models import write_model
from tests.support.golden import golden
from ttc.commands.build import _report_lines, build, parse_shapes, parse_targets
from ttc.commands.cache import cache
from ttc.commands.inspect import inspect
from ttc.errors import BundleError, InputError
from ttc.exporter.engines.build_phases import BuildPhase
from ttc.exporter.engines.build_report import BuildReport, GraphReport

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
    assert re.search(r"^step +1 +[\d.]+ [KM]iB +\d+ +from the cache +", again.stdout, re.MULTILINE)
    listed = json.loads(run(cache, "ls", "--json").stdout)
    assert [entry["role"] for entry in listed["entries"]] == ["step"]
    assert "1 entries" in run(cache, "ls", "--limit", "1").stdout
    assert "1 entries deleted" in run(cache, "clear").stdout
    assert json.loads(run(cache, "ls", "--json").stdout)["entries"] == []


def test_the_table_of_a_build_has_a_total() -> None:
    graphs = tuple(
        GraphReport(role, {f"{role}_0": size, f"{role}_1": size}, cached, 1.5, {"MatMul": 10}, phases)
        for role, size, cached, phases in (
            (
                "context",
                3 << 20,
                False,
                {"parse": BuildPhase(0.5, 1 << 30), "build": BuildPhase(1.0, 2 << 30)},
            ),
            ("denoiser", 1 << 20, True, {}),
        )
    )
    report = BuildReport(
        Path("out"),
        "tensorrt-rtx",
        "1.7",
        "cut",
        ("8.9",),
        graphs,
        seconds=2.0,
        notes=("a note",),
        reproducible=None,
    )
    lines = _report_lines(report)
    assert lines[2:6] == [
        "graph     engines  size     layers  built           parse  build  peak memory",
        "context   2        6.0 MiB  10      1.5 s           0.5 s  1.0 s  2.0 GiB",
        "denoiser  2        2.0 MiB  10      from the cache",
        "total     4        8.0 MiB  20      1.5 s",
    ]
    assert lines[-1] == "note: a note"


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


def test_a_checkpoint_that_was_moved_is_named(run, tmp_path):
    checkpoint = tmp_path / "checkpoint"
    shutil.copytree(golden("tiny_a").folder, checkpoint)
    bundle = ttc.export(checkpoint, tmp_path / "model.bundle", pack=False)
    moved = checkpoint.rename(tmp_path / "moved")
    with pytest.raises(BundleError, match=r"checkpoint: no such folder, .*\(--checkpoint\)"):
        run(build, bundle, "--dry-run")
    shown = run(build, bundle, "--dry-run", "--checkpoint", moved)
    assert (shown.exit_code, "denoiser  weights" in shown.stdout) == (0, True)


def test_a_foreign_file_from_dry_run_to_cache(run, tmp_path):
    path, out = write_model(tmp_path / "own.onnx"), tmp_path / "out"
    words = (path, "-o", out, "--sm", "89", "--min-shapes", "N:1", "--max-shapes", "N:8")
    refused = run(build, path, "--dry-run")
    assert refused.exit_code == 1
    assert "problem   sizes are missing for x (N, 4)" in refused.stdout
    shown = run(build, *words, "--dry-run").stdout
    assert "input     x  float32 (N, 4)  min (1, 4), opt (8, 4), max (8, 4)" in shown
    assert "trial     the library builds it" in shown
    plan = json.loads(run(build, *words, "--dry-run", "--json").stdout)
    assert (plan["tried"], plan["problems"], plan["inputs"][0]["max"]) == (True, [], [8, 4])
    log = tmp_path / "log.txt"
    assert run(build, *words, "--layers", "--log", log).exit_code == 0
    assert "[verbose]" in log.read_text()
    described = run(inspect, out, "--layers").stdout
    assert "inputs" in described
    assert "x  float32 (N, 4)  min [1, 4], opt [8, 4], max [8, 4]" in described
    assert "ACTIVATION" in described
    assert "from the cache" not in run(build, *words).stdout
    assert "from the cache" in run(build, *words).stdout
    assert "own (whole, up to x 8x4)" in run(cache, "ls").stdout


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
