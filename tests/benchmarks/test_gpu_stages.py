"""The stages of the GPU benchmark at tiny size on the CPU: all of them run, and none is kept by another."""

import os
import subprocess
import sys
from pathlib import Path

import pytest

from benchmarks import gpu, gpu_stages
from benchmarks.gpu_stages import STAGES, Stage, read_lines
from benchmarks.gpu_table import table

ROOT = Path(__file__).parents[2]
# Of the dry run: the tests are a stage of their own, and this is one of them.
DRY = [name for name in STAGES if name != "tests"]


@pytest.fixture(scope="module")
def lines(tmp_path_factory):
    """Every stage but the tests, run dry as users do."""
    folder = tmp_path_factory.mktemp("dry")
    command = [sys.executable, "-m", "benchmarks.gpu", "--dry", "--out", str(folder), "--stage", *DRY]
    environment = os.environ | {"OMP_NUM_THREADS": "1"}
    done = subprocess.run(command, cwd=ROOT, env=environment, capture_output=True, text=True, check=False)
    found = read_lines(folder / gpu.LINES)
    assert done.returncode == 0, (done.stderr, [line for line in found if "error" in line])
    assert table(found) in done.stdout
    return found


def of(lines, stage):
    return [line for line in lines if line["stage"] == stage and "ended" not in line]


def test_every_stage_comes_to_its_end(lines):
    assert [line["stage"] for line in lines if line.get("ended") == "done"] == DRY
    assert all(line["dry"] for line in lines), "what a dry run says is marked"
    assert not [line for line in lines if isinstance(line.get("error"), str)]
    assert {stage.seconds < 180 for stage in STAGES.values()} == {True}


def test_what_the_stages_measure(lines):
    first, ceilings, *_ = of(lines, "machine")
    assert first["versions"]["torch"]
    assert ceilings["read_bytes"] > 0
    products = of(lines, "experts")
    assert {line["tokens"] for line in products} == {1, 5}
    assert max(max(line["up_error"], line["down_error"]) for line in products) < 0.02
    kinds = {line["what"].split()[0]: line["error"] for line in of(lines, "kernels")}
    assert {"MoeRouting", "MambaScan", "SplitPredict", "ModulatedNorm"} <= kinds.keys()
    assert kinds["MoeRouting"]["expert_ids"] == 0
    assert {line["what"] for line in of(lines, "layers")} == {"M", "E", "*", "head"}
    assert {line["what"] for line in of(lines, "steps")} == {"denoise", "extend", "ar"}
    filled = [line for line in of(lines, "blocks") if line["what"] == "block"]
    level_2 = [line for line in filled if line["graph_level"] == 2]
    assert {(line["launches"], line["waits_inside"]) for line in level_2} == {(1.0, 0.0)}
    level_0 = [line for line in filled if line["graph_level"] == 0]
    assert all(line["launches"] > line["steps_per_block"] for line in level_0)
    calls = [line for line in of(lines, "blocks") if line["what"] != "block" and line["graph_level"] == 1]
    assert {(call["what"], call["launches"], call["waits"]) for call in calls} == {
        ("AR step", 1.0, 1.0),
        ("prefill chunk", 1.0, 1.0),
        ("verification and advance", 2.0, 2.0),
    }


def test_the_table_shows_what_there_is(lines):
    text = table(lines)
    assert "goal" not in text
    for words in (
        "best tile",
        "times",
        "level 2",
        "AR steps",
        "launches per block at level 2 ≤ 1: 1.00, met",
    ):
        assert words in text
    cut = table([{"stage": "machine", "at_s": 1.0}])
    assert "cut off" in cut
    assert "launches per block at level 2: not measured" in cut


def test_a_stage_that_fails_keeps_no_other_from_running(tmp_path, monkeypatch):
    """Each has its end written down: what it was, a limit, a signal, a budget that is spent."""
    started = []

    def run(command, *, cwd, timeout, check):
        file, stage = Path(command[3]), command[4]
        started.append((stage, timeout))
        if stage == "machine":
            return subprocess.CompletedProcess(command, -11)
        if stage == "experts":
            raise subprocess.TimeoutExpired(command, timeout)
        gpu.append(file, {"stage": stage, "ended": "done"})
        return subprocess.CompletedProcess(command, 0)

    monkeypatch.setattr(gpu.subprocess, "run", run)
    file = tmp_path / gpu.LINES
    gpu.run_stages(["machine", "experts", "kernels"], file, None, dry=False)
    assert [name for name, _ in started] == ["machine", "experts", "kernels"]
    assert [line["ended"] for line in read_lines(file)] == [
        "killed by signal 11",
        "stopped after 150 s",
        "done",
    ]
    started.clear()
    gpu.run_stages(["steps", "layers"], tmp_path / "more", 20.0, dry=False)
    assert all(0 < timeout <= 20 for _, timeout in started)
    gpu.run_stages(["rtx"], tmp_path / "spent", 0.0, dry=False)
    assert read_lines(tmp_path / "spent") == [{"stage": "rtx", "ended": "not started: the budget is spent"}]


def test_lines_are_there_at_once_and_a_fault_is_one(tmp_path, monkeypatch):
    file = tmp_path / gpu.LINES

    def broken(setting):
        yield {"figure": 1}
        assert [line["figure"] for line in read_lines(setting.file)] == [1], "written before the next"
        raise ValueError("no such kernel")

    monkeypatch.setattr(gpu_stages, "STAGES", {"broken": Stage(broken, 10)})
    assert not gpu_stages.run_stage("broken", gpu_stages.Setting(dry=False, file=file))
    file.write_text(file.read_text() + '{"stage": "cut o')
    figure, ended = read_lines(file)
    assert figure["figure"] == 1
    assert ended["ended"] == "ValueError: no such kernel"


def test_unknown_stages_are_refused():
    command = [sys.executable, "-m", "benchmarks.gpu", "--stage", "everything"]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False)
    assert done.returncode == 2
    assert "invalid choice: 'everything'" in done.stderr
