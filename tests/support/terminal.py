"""A command whose standard error is a pseudo-terminal."""

import contextlib
import os
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
needs_terminal = pytest.mark.skipif(os.name != "posix", reason="needs a pseudo-terminal")


def on_terminal(arguments: Sequence[object], columns: int, seconds: float) -> tuple[int, str, str]:
    """Return the exit code of `ttc` with these arguments, its standard output, and what the terminal got."""
    import pty

    ours, theirs = pty.openpty()
    process = subprocess.Popen(
        [sys.executable, "-m", "ttc", *map(str, arguments)],
        cwd=ROOT,
        env={**os.environ, "TERM": "xterm-256color", "COLUMNS": str(columns), "LINES": "20"},
        stdout=subprocess.PIPE,
        stderr=theirs,
    )
    os.close(theirs)
    drawn = b""
    with contextlib.suppress(OSError):  # how a pseudo-terminal says that the other end is closed
        while piece := os.read(ours, 4096):
            drawn += piece
    os.close(ours)
    stdout, _ = process.communicate(timeout=seconds)
    return process.returncode, stdout.decode(), drawn.decode()
