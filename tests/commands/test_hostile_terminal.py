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
