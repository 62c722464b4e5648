"""What files and models say never acts on the terminal; and an end of standard output is an error, no bug."""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

from tests.fuzz.seeds import engines_manifest
from tests.support.command_line import run
from tests.support.faults import rewrite

ROOT = Path(__file__).parents[2]
EVIL = "\x1b[2J\nverified  onnxruntime passed\u202e"


def is_harmless(text: str) -> bool:
    return all(c.isprintable() or c == "\n" for c in text)


def test_names_in_a_bundle(tiny: Path, tmp_path: Path) -> None:
    import shutil

    bundle = Path(shutil.copytree(tiny, tmp_path / "x.bundle"))
    rewrite(bundle, source={"folder": EVIL}, created_by={EVIL: "1"})
    done = run("inspect", bundle)
    assert done.exit_code == 0, done.output
    assert "\\x1b[2J\\nverified  onnxruntime passed\\u202e" in done.stdout
    assert is_harmless(done.stdout)
    assert not any(line.startswith("verified  onnxruntime") for line in done.stdout.splitlines())


def test_names_in_engines(tmp_path: Path) -> None:
    import dataclasses
    import hashlib

    from ttc.formats.manifest import FileRecord

    content = {
        "step.engine": b"x",
        "step.layers.json": json.dumps({"Layers": [{"LayerType": "CAST", "Name": EVIL}]}).encode(),
    }
    records = {}
    for name, data in content.items():
        (tmp_path / name).write_bytes(data)
        records[name] = FileRecord(hashlib.sha256(data).hexdigest(), len(data))
    made = dataclasses.replace(
        engines_manifest(), files=records, targets=(EVIL,), profile={"name": EVIL, "batch": EVIL}
    )
    (tmp_path / "engines.json").write_bytes(made.to_json())
    done = run("inspect", tmp_path, "--layers")
    assert done.exit_code == 0, done.output
    assert is_harmless(done.stdout)
    assert done.stdout.count("\\x1b[2J") == 4


def test_names_of_files_that_are_written(tiny: Path, tmp_path: Path) -> None:
    few = ("--ids", "--max-new-tokens", 2)
    done = run("generate", tiny, "5", *few, "--save-steps", tmp_path / "\x1b[2J\nwrote.svg")
    assert done.exit_code == 0, done.output
    assert is_harmless(done.stderr)
    assert "/\\x1b[2J\\nwrote.svg" in done.stderr


def test_a_cache_of_somebody_else(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    entry = tmp_path / ("0" * 64)
    entry.mkdir()
    about = {"role": EVIL, "form": 1, "backend": None}
    (entry / "entry.json").write_text(json.dumps({"files": {}, "about": about}))
    monkeypatch.setenv("TTC_CACHE_DIR", str(tmp_path))
    done = run("cache", "ls")
    assert done.exit_code == 0, done.output
    assert is_harmless(done.stdout)


@pytest.mark.skipif(not os.path.exists("/dev/full"), reason="needs /dev/full")
@pytest.mark.parametrize("words", [("cache", "ls"), ("inspect", "h100", "--json"), ("--help",)])
def test_a_full_standard_output_is_no_bug(words: tuple[str, ...]) -> None:
    with open("/dev/full", "w") as full:
        done = subprocess.run(
            [sys.executable, "-m", "ttc", *words],
            cwd=ROOT,
            stdout=full,
            stderr=subprocess.PIPE,
            text=True,
            check=False,
        )
    assert done.returncode == 1
    assert "No space left on device" in done.stderr
    assert len(done.stderr.splitlines()) == 1
    assert "bug" not in done.stderr


@pytest.mark.skipif(not os.path.exists("/dev/full"), reason="needs /dev/full")
def test_what_is_left_at_the_end_is_told_too() -> None:
    """Where a command wrote into the buffer and not further."""
    code = (
        "import sys; from ttc import cli; "
        "cli.program = lambda prog_name: sys.stdout.write('result'); cli.main()"
    )
    with open("/dev/full", "w") as full:
        done = subprocess.run(
            [sys.executable, "-c", code],
            cwd=ROOT,
            env={name: value for name, value in os.environ.items() if name != "PYTHONUNBUFFERED"},
            stdout=full,
            stderr=subprocess.PIPE,
            text=True,
            check=False,
        )
    assert done.returncode == 1
    assert done.stderr == "error: standard output: No space left on device\n"


@pytest.mark.skipif(os.name != "posix", reason="needs a pseudo-terminal")
def test_what_a_model_writes_does_not_act_on_a_terminal(mini: Path) -> None:
    """And goes as it is to anything else."""
    pytest.importorskip("llguidance", reason="llguidance is not installed")
    words = [sys.executable, "-m", "ttc", "generate", mini, "Question:", "--mode", "ar", "--regex", "\x1b"]
    piped = subprocess.run(words, cwd=ROOT, capture_output=True, check=True)
    assert piped.stdout == b"\x1b\n"
    ours, theirs = os.openpty()
    subprocess.run(words, cwd=ROOT, stdout=theirs, stderr=subprocess.DEVNULL, check=True)
    os.close(theirs)
    try:
        assert os.read(ours, 1000) == b"\\x1b\r\n"
    finally:
        os.close(ours)
