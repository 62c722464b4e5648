"""`ttc export` as a command."""

import json
import re
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

import pytest

from tests.support.command_line import ask, refused, run, start
from tests.support.keys import key_pair

ROOT = Path(__file__).parents[2]
TINY = ROOT / "tests" / "golden" / "tiny_a"


def test_export_says_what_it_made(tmp_path: Path) -> None:
    private, public = key_pair(tmp_path, "own")
    assert "not a regular file" in refused("export", TINY, "-o", tmp_path / "b", "--sign", tmp_path)
    options = ("--reference", "--dtype", "float16", "--sign", private)
    done = run("export", TINY, "-o", tmp_path / "b", *options)
    assert done.exit_code == 0, done.stderr
    assert re.fullmatch(
        rf"{re.escape(str(tmp_path / 'b'))}: [\d.]+ KiB, float16, weights by reference to "
        rf"{re.escape(str(TINY))}, [\d.]+ s\n",
        done.stdout,
    )
    assert "writing context.onnx\n" in done.stderr
    assert ask("inspect", tmp_path / "b", "--public-key", public)["signed"]
    again = refused("export", TINY, "-o", tmp_path / "b")
    assert "exists already" in again
    assert "--force" in again


def test_export_as_json(monkeypatch: pytest.MonkeyPatch, tiny: Path) -> None:
    given: list[object] = []

    def export(*arguments: object, pack: bool, sign: Path | None, progress: Callable[[str], None]) -> Path:
        given.extend([*arguments, pack, sign])
        progress("not told")
        return tiny

    monkeypatch.setattr("ttc.exporter.onnx.export.export", export)
    done = run("export", "c", "-o", "b", "--pack", "--force", "--json")
    assert given == [Path("c"), Path("b"), None, True, True, None]
    found = json.loads(done.stdout)
    assert done.stderr == ""
    assert found.pop("seconds") >= 0
    assert found == {
        "bundle": str(tiny),
        "size_bytes": sum(path.stat().st_size for path in tiny.iterdir()),
        "compute_dtype": "float32",
        "weights": "packed",
        "checkpoint": None,
    }


def test_export_of_what_is_no_checkpoint(tmp_path: Path) -> None:
    assert "config.json: missing" in refused("export", tmp_path, "-o", tmp_path / "b")
    assert "no such folder" in refused("export", tmp_path / "not", "-o", tmp_path / "b")
    assert list(tmp_path.iterdir()) == []


def test_export_without_torch(tmp_path: Path) -> None:
    code = "import sys; sys.modules['torch'] = None; from ttc.cli import main; main()"
    command = [sys.executable, "-c", code, "export", str(TINY), "-o", str(tmp_path / "b")]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False)
    assert done.returncode == 1
    assert done.stderr.splitlines()[-1].startswith("error: exporting needs torch")
    assert "pip install" in done.stderr


@pytest.mark.parametrize("wait_for", ["tracing embedding", "tracing context layer"])
def test_an_interrupted_export_leaves_nothing(tmp_path: Path, wait_for: str) -> None:
    process = start("export", TINY, "-o", tmp_path / "b")
    assert process.stderr is not None
    seen = ""
    for line in process.stderr:
        seen += line
        if line.startswith(wait_for):
            break
    time.sleep(0.2)
    process.send_signal(signal.SIGINT)
    stdout, stderr = process.communicate(timeout=60)
    assert process.returncode == 130
    assert stdout == ""
    assert stderr.splitlines()[-1] == f"interrupted; {tmp_path / 'b'} is as it was before"
    assert "Traceback" not in seen + stderr
    assert list(tmp_path.iterdir()) == []
