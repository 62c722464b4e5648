"""Writes and reads while calls to the system fail, one after another: each ends in the old state or in the
new one, and says why it failed.
"""

import json
import os
import shutil
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from safetensors.numpy import save_file

from tests.faults.test_faults import check_whole, writer

ROOT = Path(__file__).parents[2]
pytestmark = pytest.mark.skipif(sys.platform != "linux", reason="looks into /proc, and preloads a library")


@pytest.fixture(scope="module")
def shim(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The library whose calls fail when told to."""
    compiler = shutil.which("cc")
    if compiler is None:
        pytest.skip("there is no C compiler")
    made = tmp_path_factory.mktemp("shim") / "failing_calls.so"
    source = Path(__file__).with_name("failing_calls.c")
    subprocess.run([compiler, "-shared", "-fPIC", "-O1", "-o", made, source, "-ldl"], check=True)
    return made


def attempts(folder: Path, kind: str, shim: Path | None = None) -> list[tuple[str, str, str]]:
    """Make all attempts of a kind; return what was the matter, how it ended, what is wrong."""
    folder.mkdir()
    save_file({"a": np.ones(4, np.float32)}, folder / "x.safetensors")
    preloaded = {} if shim is None else {"LD_PRELOAD": str(shim), "FAULT_UNDER": str(folder)}
    done = subprocess.run(
        [sys.executable, "-m", "tests.faults.attempts", str(folder), kind],
        cwd=ROOT,
        env=os.environ | preloaded,
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    return [(matter, said, wrong) for matter, said, wrong in map(json.loads, done.stdout.splitlines())]


def check(found: list[tuple[str, str, str]], *ways: str) -> None:
    """All ended in one of these ways, and nothing is wrong."""
    assert not [each for each in found if each[2]]
    assert not [each for each in found if not each[1].startswith(("done", "refused", *ways))]


@pytest.mark.parametrize("kind", ["failing-writes", "failing-reads"])
def test_every_call_fails_once(tmp_path: Path, shim: Path, kind: str) -> None:
    found = attempts(tmp_path / "work", kind, shim)
    check(found)
    assert len([each for each in found if each[1].startswith("refused")]) > 10
    errors = {each[0].split()[0] for each in found if each[1].endswith("(no such call)")}
    assert errors == ({"EIO", "ENOSPC"} if kind == "failing-writes" else {"EIO"}), "all calls had their turn"


def test_few_descriptors_for_writers(tmp_path: Path) -> None:
    found = attempts(tmp_path / "work", "few-descriptors")
    check(found)
    assert found[0][1].startswith("refused")
    assert found[-2][1] == "done"


def test_little_memory(tmp_path: Path) -> None:
    check(attempts(tmp_path / "work", "little-memory"), "MemoryError")


def test_odd_clocks(tmp_path: Path) -> None:
    found = attempts(tmp_path / "work", "odd-clocks")
    check(found)
    assert {each[1] for each in found} == {"done"}


@pytest.mark.skipif(os.geteuid() != 0, reason="needs root, to mount a file system")
def test_a_small_file_system(tmp_path: Path) -> None:
    place = tmp_path / "small"
    place.mkdir()
    mounted = subprocess.run(
        ["mount", "-t", "tmpfs", "-o", "size=600k", "tmpfs", place],
        capture_output=True,
        text=True,
        check=False,
    )
    if mounted.returncode:
        pytest.skip(f"nothing may be mounted here: {mounted.stderr.strip()}")
    try:
        assert writer(place, 1).communicate()[1] == ""
        (place / "filler").write_bytes(bytes(400 * 1024))
        said = writer(place, 20).communicate()[1]  # contents grow from 20 kB to 40
        assert "No space left on device" in said
        check_whole(place)
        assert not [path.name for path in place.iterdir() if path.name.startswith(".")]
        (place / "filler").unlink()
        assert writer(place, 1).communicate()[1] == ""
        check_whole(place)
    finally:
        subprocess.run(["umount", place], check=True)
