"""What a build leaves when it is ended by a signal, and what it says where the system is in the way."""

import os
import shutil
import signal
import subprocess
import sys
from pathlib import Path

import pytest

from tests.support.build_models import write_model
from tests.support.command_line import start
from tests.support.keys import key_pair
from ttc.exporter.engines import foreign_plan
from ttc.exporter.engines.build import build
from ttc.formats.engines import EngineFolder

pytest.importorskip("tensorrt_rtx", reason="TensorRT-RTX is not installed")
ROOT = Path(__file__).parents[3]
pytestmark = pytest.mark.skipif(os.name == "nt", reason="needs signals")


@pytest.mark.parametrize(("number", "code"), [("SIGINT", 130), ("SIGTERM", 143), ("SIGHUP", 129)])
def test_a_signal_leaves_nothing(tmp_path, number, code):
    path = write_model(tmp_path / "own.onnx")
    temporary = tmp_path / "tmp"
    temporary.mkdir()
    process = start("build", path, "--shapes", "N:2", "--no-cache", TMPDIR=str(temporary), COLUMNS="80")
    assert process.stderr is not None
    with process:
        assert process.stderr.readline().startswith("building own")
        process.send_signal(getattr(signal, number))
        process.communicate(timeout=60)
    assert process.returncode == code
    assert {entry.name for entry in tmp_path.iterdir()} == {"own.onnx", "tmp"}
    assert list(temporary.iterdir()) == []


def ttc(*words, stdout=subprocess.PIPE, before=(), cache=("--no-cache",)):
    environment = {**os.environ, "PYTHONPATH": str(ROOT)}
    return subprocess.run(
        [sys.executable, *before, "-m", "ttc", "build", *cache, *map(str, words)],
        env=environment,
        stdout=stdout,
        stderr=subprocess.PIPE,
        text=True,
        check=False,
    )


@pytest.mark.skipif(not Path("/dev/full").exists(), reason="needs /dev/full")
def test_a_full_standard_output_is_the_systems(tmp_path):
    path = write_model(tmp_path / "own.onnx")
    with Path("/dev/full").open("w") as full:
        done = ttc(path, "--dry-run", "--shapes", "N:2", stdout=full)
    assert done.returncode == 1
    assert done.stderr.splitlines() == ["error: No space left on device"]


def test_a_folder_that_vanishes_is_the_systems(tmp_path, monkeypatch):
    from tests.support.command_line import run
    from ttc.exporter.engines import onnx_file

    path = write_model(tmp_path / "own.onnx")
    real = onnx_file._read

    def vanish(file):
        raw = real(file)
        shutil.rmtree(tmp_path)
        return raw

    monkeypatch.setattr(onnx_file, "_read", vanish)
    done = run("build", path, "--dry-run")
    assert done.exit_code == 1
    assert done.stderr == f"error: {path}: cannot be read (No such file or directory)\n"


@pytest.mark.skipif(sys.platform != "linux", reason="filters of system calls are Linux's")
@pytest.mark.usefixtures("cache_folder")
def test_where_personality_is_refused_the_note_says_so(tmp_path):
    """As under Docker's filter."""
    path = write_model(tmp_path / "own.onnx")
    before = ["-m", "tests.support.refused_calls", "personality", sys.executable]
    done = ttc(path, "--shapes", "N:2", before=before, cache=())
    assert done.returncode == 0, done.stderr
    (note,) = [line for line in done.stdout.splitlines() if "other bytes" in line]
    assert "the system refuses to fix those (personality(2)), as Docker's filter" in note
    engines = path.with_name("own.engines")
    assert not EngineFolder.open(engines).manifest.fixed_addresses
    again = build(path, tmp_path / "again", shapes={"N": {"opt": 2}})
    assert again.graphs[0].cached
    assert [note for note in again.notes if "other bytes" in note], "the cache does not hide it"
    assert not EngineFolder.open(again.output).manifest.fixed_addresses
    report = build(path, tmp_path / "free", shapes={"N": {"opt": 2}}, cache=False)
    assert not [note for note in report.notes if "other bytes" in note]
    assert EngineFolder.open(report.output).manifest.fixed_addresses


@pytest.mark.skipif(sys.platform != "linux", reason="filters of system calls are Linux's")
def test_where_filters_are_refused_the_note_says_so(tmp_path):
    """The libraries may then open sockets, and nobody who vouches for engines takes that."""
    path, before = write_model(tmp_path / "own.onnx"), ["-m", "tests.support.refused_calls", "seccomp"]
    before.append(sys.executable)
    done = ttc(path, "--shapes", "N:2", before=before)
    assert done.returncode == 0, done.stderr
    assert "note: the libraries that built the engines were not kept off the network" in done.stdout
    private, _ = key_pair(tmp_path, "own")
    done = ttc(path, "--shapes", "N:2", "--sign", private, before=before)
    assert done.returncode == 1
    assert "cannot be kept off the network here, and a build that signs" in done.stderr
    assert "Traceback" not in done.stderr
    report = build(path, tmp_path / "free", shapes={"N": {"opt": 2}}, cache=False, sign=private)
    assert not [note for note in report.notes if "network" in note]


def test_what_a_killed_trial_left_is_swept(tmp_path, monkeypatch):
    monkeypatch.setattr("tempfile.tempdir", str(tmp_path))
    with foreign_plan._workspace() as folder:
        name = folder.name
    left = tmp_path / f"{name[:-8]}01234567"
    left.mkdir()
    (left / "network.onnx").touch()
    with foreign_plan._workspace() as folder:
        assert [path.name for path in tmp_path.iterdir()] == [folder.name]
    assert not list(tmp_path.iterdir())
