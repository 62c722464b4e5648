"""What writes and reads do when the machine fails them: each ends in the old state or in the new one, and a
read in an error of ours.
"""

import errno
import os
import random
import resource
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from safetensors.numpy import save_file

from ttc.errors import CheckpointError
from ttc.exporter.engines.cache import EngineCache
from ttc.formats.shard import Shard
from ttc.model.bundle import Bundle

ROOT = Path(__file__).parents[2]
pytestmark = pytest.mark.skipif(os.name != "posix", reason="needs signals, limits and users")

# Replaces a bundle, a file and an entry of a cache over and over, content after content.
WRITER = """
import os, sys
from pathlib import Path
from tests.formats.test_atomic_folder import MANIFEST, fill
from ttc.base.files import write_whole
from ttc.exporter.engines.cache import EngineCache
from ttc.formats.atomic_folder import bundle_writer
if len(sys.argv) > 3:
    os.setuid(int(sys.argv[3]))  # late, since somebody else may not read what was imported
folder, cache = Path(sys.argv[1]), EngineCache(Path(sys.argv[1]) / "cache")
print("ready", flush=True)
for i in range(int(sys.argv[2])):
    with bundle_writer(folder / "bundle", force=True) as draft:
        fill(draft, str(i) * 20000)
        draft.commit(MANIFEST)
    write_whole(folder / "report.json", str(i) * 20000)
    cache.put(f"{i % 3:064x}", {"a.engine": folder / "report.json"}, {})
"""


def writer(
    folder: Path, rounds: int, before: Callable[[], None] | None = None, *user: str
) -> "subprocess.Popen[str]":
    process = subprocess.Popen(
        [sys.executable, "-c", WRITER, str(folder), str(rounds), *user],
        cwd=ROOT,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        preexec_fn=before,
    )
    assert process.stdout is not None
    assert process.stdout.readline() == "ready\n", process.communicate()[1]
    return process


def check_whole(folder: Path) -> None:
    """Everything that is there is one content, from its beginning to its end."""
    for path in (folder / "bundle", folder / "report.json"):
        if not path.exists():
            continue
        if path.is_dir():
            with Bundle.open(path) as bundle:
                text = bundle.read_file("context.onnx").decode()
        else:
            text = path.read_text()
        unit = text[: len(text) // 20000]
        assert text == unit * 20000
    cache = EngineCache(folder / "cache")
    for entry in cache.entries():
        with tempfile.TemporaryDirectory() as taken:
            assert cache.take(entry.key, Path(taken))


def test_signals_at_random_moments(tmp_path: Path) -> None:
    rng = random.Random(7)
    for number in [signal.SIGKILL, signal.SIGTERM] * 4:
        process = writer(tmp_path, 10_000)
        time.sleep(rng.uniform(0.0, 0.15))
        process.send_signal(number)
        process.communicate()
        assert process.returncode == -number
        check_whole(tmp_path)
    process = writer(tmp_path, 1)
    assert process.communicate()[1] == ""
    left = [path.name for path in tmp_path.iterdir() if path.name.startswith(".bundle")]
    assert left == [], "the next writer sweeps"
    assert not [path.name for path in (tmp_path / "cache").iterdir() if path.name.startswith(".")]


def test_a_disk_that_takes_no_more(tmp_path: Path) -> None:
    assert writer(tmp_path, 1).communicate()[1] == ""

    def full() -> None:
        resource.setrlimit(resource.RLIMIT_FSIZE, (5000, 5000))

    said = writer(tmp_path, 2, full).communicate()[1]
    assert "cannot be written: File too large; nothing was left there" in said
    check_whole(tmp_path)
    assert sorted(path.name for path in tmp_path.iterdir()) == ["bundle", "cache", "report.json"]


@pytest.mark.skipif(os.name != "posix" or os.geteuid() != 0, reason="needs root, to become somebody else")
def test_a_folder_of_somebody_else() -> None:
    with tempfile.TemporaryDirectory(dir="/tmp") as folder:
        for mode, words in ((0o755, "cannot be written (Permission denied)"), (0o700, "Permission denied")):
            Path(folder).chmod(mode)
            said = writer(Path(folder), 1, None, "65534").communicate()[1]
            assert "InputError" in said
            assert words in said
            assert os.listdir(folder) == []


def test_few_descriptors(tmp_path: Path) -> None:
    save_file({"a": np.zeros(4, np.float32)}, tmp_path / "x.safetensors")
    code = (
        "import resource, sys; from ttc.formats.shard import Shard; from ttc.errors import CheckpointError\n"
        "resource.setrlimit(resource.RLIMIT_NOFILE, (12, 12)); opened = []\n"
        "try:\n    for _ in range(20): opened.append(Shard.open(sys.argv[1]))\n"
        "except CheckpointError as fault: print(len(opened) > 3, fault)"
    )
    done = subprocess.run(
        [sys.executable, "-c", code, str(tmp_path / "x.safetensors")],
        cwd=ROOT,
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.stdout.startswith("True "), done.stderr
    assert "Too many open files" in done.stdout


def test_a_disk_that_cannot_be_read(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    save_file({"a": np.zeros(4, np.float32)}, tmp_path / "x.safetensors")

    def broken(*_: object) -> int:
        raise OSError(errno.EIO, os.strerror(errno.EIO))

    with Shard.open(tmp_path / "x.safetensors") as shard:
        monkeypatch.setattr(os, "preadv", broken)
        with pytest.raises(CheckpointError, match=r"x.safetensors: cannot be read \(Input/output error\)"):
            shard.read("a")
