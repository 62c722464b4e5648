"""Scripts find out before they measure whether what they measure can be written."""

import argparse
import ast
import json
import subprocess
import sys
from pathlib import Path

import pytest

from ttc.bench.record_file import record_file, write_record

ROOT = Path(__file__).parents[2]
FOLDERS = ("benchmarks", "tests/fuzz", "tests/soak", "examples")
NAMES = {"--output", "--json", "--plot", "--record"}


def output_options() -> list[tuple[str, ast.Call]]:
    found = []
    for path in sorted(path for folder in FOLDERS for path in (ROOT / folder).rglob("*.py")):
        for node in ast.walk(ast.parse(path.read_text("utf-8"))):
            if isinstance(node, ast.Call) and getattr(node.func, "attr", "") == "add_argument":
                names = {word.value for word in node.args if isinstance(word, ast.Constant)}
                if names & NAMES:
                    found.append((f"{path.relative_to(ROOT)} {' '.join(sorted(names))}", node))
    return found


def test_every_script_that_writes_a_record_asks_first() -> None:
    options = output_options()
    assert len(options) > 20
    for where, call in options:
        given = {word.arg: word.value for word in call.keywords}
        if ast.dump(given.get("action", ast.Constant(None))) == ast.dump(ast.Constant("store_true")):
            continue
        assert ast.unparse(given["type"]) == "record_file", where
        # argparse tries defaults that are texts, and takes others as they are.
        assert "default" not in given or not ast.unparse(given["default"]).startswith(("Path(", "ROOT")), (
            where
        )


def test_a_record_file(tmp_path: Path) -> None:
    path = record_file(str(tmp_path / "a" / "b" / "record.json"))
    assert path.parent.is_dir()
    write_record(path, {"a": 1})
    assert json.loads(path.read_text()) == {"a": 1}
    (tmp_path / "file").touch()
    for bad in (tmp_path, tmp_path / "file" / "record.json"):
        with pytest.raises(argparse.ArgumentTypeError, match=r"a folder; name a file in it|File exists"):
            record_file(str(bad))


def test_the_fuzzer_begins_nothing_that_it_cannot_record(tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    few = [sys.executable, "-m", "tests.fuzz.run", "--reader", "machine", "--inputs", "5", "--record"]
    done = subprocess.run([*few, tmp_path / "file" / "a.json"], cwd=ROOT, capture_output=True, text=True)
    assert (done.returncode, done.stdout) == (2, "")
    assert "Not a directory" in done.stderr.splitlines()[-1] or "File exists" in done.stderr.splitlines()[-1]
    done = subprocess.run([*few, tmp_path / "new" / "a.json"], cwd=ROOT, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    assert json.loads((tmp_path / "new" / "a.json").read_text())["readers"]["machine"]["inputs"] == 5
