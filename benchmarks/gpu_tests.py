"""The stage of `benchmarks.gpu` that runs the tests marked gpu.

What pytest says is read as it comes, so that a run which has to be stopped has told what it found. It reads
no configuration: pyproject.toml asks for plugins that a machine without a network need not have.
"""

import contextlib
import importlib.util
import os
import re
import signal
import subprocess
import sys
import threading
from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from typing import Any

__all__ = ["ENDS", "run_tests"]

ROOT = Path(__file__).parents[1]
FOLDERS = ("tests/plugins", "tests/runtime/gpu")
# A test's end, in one process or in several, and a file that cannot be collected.
_WORDS = "(?P<outcome>PASSED|FAILED|ERROR|SKIPPED)"
ENDS = (
    re.compile(rf"(?P<name>tests/\S+::.*?) {_WORDS}\b"),
    re.compile(rf"\[gw\d+\] \[ *\d+%\] {_WORDS} (?P<name>tests/\S+::.*)"),
    re.compile(r"(?P<outcome>ERROR) (?P<name>tests/[^\s:]+\.py)\b(?!::)"),
)
_EVERY = 100  # outcomes from one line of counts to the next


def run_tests(
    limit_seconds: float, *, dry: bool, folders: tuple[str, ...] = FOLDERS
) -> Iterator[dict[str, Any]]:
    """Yield every test that fails, counts now and then, and how it ended.

    Args:
        limit_seconds: pytest is stopped then, with all processes of its own.
        dry: only collect them.
        folders: of the tests.

    Raises:
        SystemExit: a test failed, or not all of them ran.
    """
    if importlib.util.find_spec("pytest") is None:
        raise SystemExit("pytest is not installed; docs/gpu.md says what to bring")
    command = [sys.executable, "-m", "pytest", "-c", os.devnull, "--rootdir", str(ROOT), "-v", "--full"]
    command += ["-m", "gpu", "--import-mode=importlib", "-p", "no:cacheprovider"]
    command += ["--continue-on-collection-errors"]
    if importlib.util.find_spec("xdist") is not None and not dry:
        command += ["-n", "8", "--dist", "worksteal"]
    command += ["--collect-only", "-q"] if dry else []
    path = os.pathsep.join(filter(None, [str(ROOT), os.environ.get("PYTHONPATH")]))
    environment = os.environ | {"PYTHONPATH": path} | ({} if dry else {"TTC_REQUIRE": "gpu"})
    process = subprocess.Popen(
        [*command, *folders],
        cwd=ROOT,
        env=environment,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        start_new_session=True,  # so that its workers can be stopped with it
    )
    stopped = threading.Event()

    def stop() -> None:
        stopped.set()  # first: its end is noticed at once
        with contextlib.suppress(ProcessLookupError):  # it has just ended by itself
            os.killpg(process.pid, signal.SIGKILL)

    timer = threading.Timer(limit_seconds, stop)
    timer.start()
    counts, last = Counter[str](), [""]
    assert process.stdout is not None
    try:
        for line in process.stdout:
            last = [*last[-8:], line.rstrip()]
            found = next(filter(None, (end.match(line) for end in ENDS)), None)
            if found is None:
                continue
            counts[found["outcome"].lower()] += 1
            if found["outcome"] in ("FAILED", "ERROR"):
                yield {"failed_test": found["name"].strip()[:300]}
            if counts.total() % _EVERY == 0:
                yield dict(counts)
        code = process.wait()
    finally:
        timer.cancel()
        process.stdout.close()
        if process.poll() is None:
            stop()
            process.wait()
    yield {"exit_code": code, **counts, "stopped": stopped.is_set(), "said": [line[:300] for line in last]}
    failed = f"{counts['failed'] + counts['error']} failed"
    if stopped.is_set():
        raise SystemExit(f"stopped after {limit_seconds:g} s: {failed}")
    if code:
        raise SystemExit(f"pytest ended with {code}: {failed}")
