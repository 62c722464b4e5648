"""Nothing of ours writes outside the declared places (docs/trust.md), or opens a connection.

The commands run with an empty home folder under a filter of system calls that ends a process which opens a
socket of the internet, libraries in C included.
"""

import contextlib
import json
import os
import re
import signal
import socket
import subprocess
import sys
import time
import urllib.request
from pathlib import Path

import pytest

from tests.support.private_commands import commands
from ttc.cli import COMMANDS

ROOT = Path(__file__).parents[2]
# Below the home folder.
DECLARED = re.compile(r"\.cache/ttc/(engines|demo)/.*")
VARIABLE = "ORT_DISABLE_TELEMETRY"
needs_filters = pytest.mark.skipif(sys.platform != "linux", reason="needs seccomp")


def environment(tmp_path: Path) -> dict[str, str]:
    for name in ("home", "tmp", "work"):
        (tmp_path / name).mkdir()
    gone = (VARIABLE, "XDG_CACHE_HOME", "TTC_CACHE_DIR", "PYTHONPATH")
    kept = {name: value for name, value in os.environ.items() if name not in gone}
    own = {"HOME": str(tmp_path / "home"), "TMPDIR": str(tmp_path / "tmp"), "PYTHONPATH": str(ROOT)}
    return kept | own


@needs_filters
def test_the_filter_ends_who_opens_a_socket() -> None:
    code = (
        "from ttc.exporter.engines.worker_limits import forbid_network; import socket; "
        "forbid_network(kill=True); socket.socket(socket.AF_UNIX).close(); socket.socket(socket.AF_INET)"
    )
    done = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, check=False)
    assert done.returncode == -signal.SIGSYS


@needs_filters
@pytest.mark.slow
def test_no_command_leaves_files_elsewhere_or_connects(tiny: Path, tmp_path: Path) -> None:
    pytest.importorskip("tensorrt_rtx", reason="TensorRT-RTX is not installed")
    checkpoint = ROOT / "tests" / "golden" / "tiny_a"
    words = (tmp_path / "work", checkpoint, tiny / "step.onnx")
    # `serve` opens a socket, to listen; it is tried below. `demo` is export, bench and generate.
    assert {*commands(*words), "serve", "demo"} == set(COMMANDS)
    settings = environment(tmp_path)
    (tmp_path / "here").mkdir()
    done = subprocess.run(
        [sys.executable, "-m", "tests.support.private_commands", *map(str, words)],
        cwd=tmp_path / "here",
        env=settings,
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    found = json.loads(done.stdout)
    assert set(found) == set(commands(*words))
    for name, left in found.items():
        assert [path for path in left["home"] if not DECLARED.fullmatch(path)] == [], name
        assert left["temporary"] == left["here"] == [], name
    assert found["build"]["home"], "the cache of engines is where it is said to be"


@needs_filters
def test_the_service_leaves_nothing_in_the_home_folder(mini: Path, tmp_path: Path) -> None:
    settings = environment(tmp_path)
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    process = subprocess.Popen(
        [sys.executable, "-m", "ttc", "serve", str(mini), "--port", str(port)],
        env=settings,
        cwd=tmp_path / "work",
        stderr=subprocess.PIPE,
        text=True,
    )
    assert process.stderr is not None
    with process.stderr as lines:
        end = time.monotonic() + 60
        while time.monotonic() < end and process.poll() is None:
            with contextlib.suppress(OSError):  # while it loads, 503 is its answer
                urllib.request.urlopen(f"http://127.0.0.1:{port}/health").close()
                break
            time.sleep(0.05)
        process.send_signal(signal.SIGTERM)
        said = lines.read()
    assert process.wait(60) == 0, said
    assert not [path for path in tmp_path.rglob("*") if path.is_file()]


def test_what_the_user_says_about_telemetry_stays() -> None:
    code = f"import os, ttc; print(os.environ[{VARIABLE!r}])"
    for given, due in ((None, "1"), ("0", "0")):
        settings = {name: value for name, value in os.environ.items() if name != VARIABLE}
        settings |= {"PYTHONPATH": str(ROOT)} | ({} if given is None else {VARIABLE: given})
        done = subprocess.run(
            [sys.executable, "-c", code], env=settings, capture_output=True, text=True, check=True
        )
        assert done.stdout.strip() == due
