"""The lock of the development environment, and what asks after vulnerabilities in it."""

import importlib.util
import os
import re
import subprocess
import sys
import tomllib
from pathlib import Path
from types import ModuleType

import pytest
from packaging.requirements import Requirement

ROOT = Path(__file__).parents[2]
LOCK = ROOT / ".ci" / "dev.lock"
ENTRY = re.compile(r"([a-z0-9-]+)==([^ ]+) \\\n    --hash=sha256:[0-9a-f]{64}\n")


def program(name: str) -> ModuleType:
    spec = importlib.util.spec_from_file_location(name, ROOT / ".ci" / f"{name}.py")
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def locked() -> dict[str, str]:
    return dict(ENTRY.findall(LOCK.read_text("utf-8")))


def test_it_holds_packages_and_digests_and_nothing_else() -> None:
    text = LOCK.read_text("utf-8")
    entries = "".join(line for line in text.splitlines(keepends=True) if not line.startswith("#"))
    assert ENTRY.sub("", entries) == ""
    assert len(locked()) == text.count("--hash=") > 50


def test_it_is_within_the_bounds() -> None:
    """`make lock` writes it anew where this fails."""
    project = tomllib.loads((ROOT / "pyproject.toml").read_text("utf-8"))["project"]
    extras, found, due = project["optional-dependencies"], locked(), [*project["dependencies"]]
    for extra in ("dev", "export", "gpu", "serve", "sign", "structured"):
        due += extras[extra]
    wrong = []
    for line in due:
        wanted = Requirement(line)
        name = re.sub(r"[-_.]+", "-", wanted.name).lower()
        if name in ("torch", "twotower-compiler") or (wanted.marker and not wanted.marker.evaluate()):
            continue
        if name not in found or not wanted.specifier.contains(found[name]):
            wrong.append(f"{line}: {found.get(name)}")
    assert not wrong


def test_what_an_audit_says(capsys: pytest.CaptureFixture[str]) -> None:
    verdict = program("audit").verdict
    sound = {"name": "a", "version": "1", "vulns": []}
    unknown = {"name": "b", "skip_reason": "not found"}
    bad = {"name": "c", "version": "2", "vulns": [{"id": "X-1", "fix_versions": ["3"]}]}
    assert verdict([sound, unknown]) == 0
    assert capsys.readouterr().out.splitlines() == [
        "not known to the database: b",
        "audit: 1 packages, no known vulnerability",
    ]
    assert verdict([sound, bad]) == 1
    assert capsys.readouterr().out.startswith("c 2: X-1, mended in 3\n")
    assert verdict([unknown]) == 0
    assert capsys.readouterr().out.startswith("audit: skipped, the database knows none of the packages")
    assert verdict([unknown], required=True) == 1


@pytest.mark.parametrize("part", ["SAMPLE", "SERVICE"])
def test_what_the_lowest_and_newest_versions_are_tried_with_runs(part: str, tmp_path: Path) -> None:
    """With what is installed here; `make lowest` and `make newest` install other versions first."""
    for extra in ("cryptography", "llguidance", "PIL", "uvicorn"):
        pytest.importorskip(extra)
    words = [sys.executable, "-c", getattr(program("lowest"), part), "miniature", str(tmp_path)]
    settings = os.environ | {"XDG_CACHE_HOME": str(tmp_path), "PYTHONPATH": str(ROOT)}
    done = subprocess.run(words, cwd=tmp_path, env=settings, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    assert done.stdout.endswith("all right\n")
