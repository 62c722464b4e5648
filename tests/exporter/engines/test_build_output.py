"""What a build leaves at its destination when it fails, is killed or is not alone."""

import errno
import os
import signal
import subprocess
import sys
from pathlib import Path

import pytest

from ttc.errors import BundleError, InputError
from ttc.exporter.engines.build import build
from ttc.formats.engines import EngineFolder

pytest.importorskip("tensorrt_rtx", reason="TensorRT-RTX is not installed")
pytestmark = pytest.mark.usefixtures("cache_folder")


def test_a_full_disk_leaves_nothing(step, tmp_path, monkeypatch):
    real = os.replace

    def replace(source, target):
        if str(target).endswith(".engine"):
            Path(target).write_bytes(Path(source).read_bytes()[:1000])
            raise OSError(errno.ENOSPC, "No space left on device")
        return real(source, target)

    monkeypatch.setattr(os, "replace", replace)
    with pytest.raises(BundleError, match="No space left on device; nothing was left there"):
        build(step, tmp_path / "out")
    assert not list(tmp_path.iterdir())


def script(step, output, pause):
    """A build in a process of its own that says when it is in the middle and then waits."""
    lines = (
        "import sys, time",
        "from ttc.exporter.engines.build import build",
        "def say(what, done, total):",
        f"    if done == 1: print(what, flush=True); time.sleep({pause})",
        f"build({str(step)!r}, {str(output)!r}, cache=False, progress=say)",
    )
    return [sys.executable, "-c", "\n".join(lines)]


@pytest.mark.skipif(os.name == "nt", reason="needs signals")
def test_a_killed_build_leaves_nothing_at_the_destination(step, tmp_path):
    output = tmp_path / "out"
    process = subprocess.Popen(script(step, output, 60), stdout=subprocess.PIPE, text=True)
    assert process.stdout is not None
    with process.stdout:
        assert process.stdout.readline()
        process.send_signal(signal.SIGKILL)
        process.wait()
    assert not output.exists()
    build(step, output, cache=False)
    assert [path.name for path in tmp_path.iterdir()] == ["out"]
    EngineFolder.open(output)


def test_two_builds_of_one_output_at_once(step, tmp_path):
    output = tmp_path / "out"
    both = [subprocess.Popen(script(step, output, 0), stdout=subprocess.DEVNULL) for _ in range(2)]
    assert [process.wait(200) for process in both] == [0, 0]
    EngineFolder.open(output)
    assert [path.name for path in tmp_path.iterdir()] == ["out"]


def test_only_engines_are_replaced(step, tmp_path):
    output = tmp_path / "out"
    output.mkdir()
    (output / "thesis.txt").write_text("mine")
    with pytest.raises(InputError, match=r"holds 'thesis\.txt'"):
        build(step, output)
    assert (output / "thesis.txt").read_text() == "mine"
