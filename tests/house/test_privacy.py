"""Nothing of ours writes outside the declared places (docs/trust.md), or opens a connection.

The commands run with an empty home folder under a filter of system calls that ends a process which opens a
socket of the internet, libraries in C included; and where there is strace, under that.
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

from tests.support.private_commands import commands, name_of, names
from tests.support.traced import connections, has_tracer, traced, written

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


def check_trace(log: Path, folder: Path) -> None:
    """Nobody was asked for anything, and all that was written lies below a folder."""
    if not has_tracer():
        pytest.skip("no strace here: what is written beside home and temporary folder was not looked at")
    assert connections(log) == []
    assert log.stat().st_size
    found = written(log)
    allowed = re.compile(rf"{re.escape(str(folder))}/.*|/dev/.*|/proc/.*|.*/__pycache__(/.*)?")
    assert sorted(path for path in found if not allowed.fullmatch(path)) == []


def children(process: int) -> list[int]:
    return [int(word) for word in Path(f"/proc/{process}/task/{process}/children").read_text().split()]


def test_what_a_trace_tells(tmp_path: Path) -> None:
    (tmp_path / "log").write_text(
        '7 openat(AT_FDCWD</x>, "a", O_RDONLY) = 3</x/a>\n'
        '7 openat(AT_FDCWD</x>, "b", O_WRONLY|O_CREAT, 0666 <unfinished ...>\n'
        "8 connect(3<socket:[1]>, {sa_family=AF_INET, sin_port=htons(53)}, 16) = -1 EACCES (Denied)\n"
        "7 <... openat resumed>) = 4</x/b>\n"
        '8 connect(3<UNIX-STREAM:[1]>, {sa_family=AF_UNIX, sun_path="/s"}, 110) = -1 ENOENT (No such file)\n'
        '8 mkdir("/y/c", 0777) = 0\n'
        '8 mkdir("/y/d", 0777) = -1 EEXIST (File exists)\n'
        '8 renameat2(AT_FDCWD</x>, "b", AT_FDCWD</x>, "e", RENAME_EXCHANGE) = 0\n'
        "8 +++ exited with 0 +++\n"
    )
    assert written(tmp_path / "log") == {"/x/b", "/y/c", "/x/e"}
    assert len(connections(tmp_path / "log")) == 1


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
    # `serve` opens a socket, to listen; it is tried below.
    assert {*map(name_of, commands(*words)), "serve"} == names()
    settings = environment(tmp_path)
    (tmp_path / "here").mkdir()
    command, log = (
        [sys.executable, "-m", "tests.support.private_commands", *map(str, words)],
        tmp_path / "log",
    )
    done = subprocess.run(
        traced(command, log) if has_tracer() else command,
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
    if has_tracer():
        assert str(tmp_path / "work" / "own.bundle") in written(log)
    check_trace(log, tmp_path)


@needs_filters
def test_the_service_leaves_nothing_in_the_home_folder(tiny: Path, tmp_path: Path) -> None:
    settings = environment(tmp_path)
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    command, log = [sys.executable, "-m", "ttc", "serve", str(tiny), "--port", str(port)], tmp_path / "log"
    process = subprocess.Popen(
        traced(command, log) if has_tracer() else command,
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
        for child in children(process.pid) if has_tracer() else [process.pid]:
            os.kill(child, signal.SIGTERM)
        said = lines.read()
    assert process.wait(60) == 0, said
    assert not [path for path in tmp_path.rglob("*") if path.is_file() and path != log]
    check_trace(log, tmp_path)


def test_what_the_user_says_about_telemetry_stays() -> None:
    code = f"import os, ttc; print(os.environ[{VARIABLE!r}])"
    for given, due in ((None, "1"), ("0", "0")):
        settings = {name: value for name, value in os.environ.items() if name != VARIABLE}
        settings |= {"PYTHONPATH": str(ROOT)} | ({} if given is None else {VARIABLE: given})
        done = subprocess.run(
            [sys.executable, "-c", code], env=settings, capture_output=True, text=True, check=True
        )
        assert done.stdout.strip() == due
