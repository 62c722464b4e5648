"""Calling `ttc` in tests: in this process or in one of its own."""

import json
import os
import signal
import subprocess
import sys
from pathlib import Path
from typing import Any

from click.testing import CliRunner, Result

from ttc.cli import program

__all__ = ["JSON_KEYS", "ask", "refused", "run", "start", "step_lines"]

ROOT = Path(__file__).parents[2]
JSON_KEYS = {
    "token_ids", "text", "finish_reason", "prompt_tokens", "nfe", "nfe_per_block", "tokens_per_nfe",
    "context_calls", "seconds", "tokens_per_second", "backend", "mode", "backend_seconds", "seed", "notes",
}  # fmt: skip


def run(*arguments: object, **options: Any) -> Result:
    """Run the command line here."""
    return CliRunner().invoke(program, [str(a) for a in arguments], prog_name="ttc", **options)


def ask(*arguments: object, **options: Any) -> dict[str, Any]:
    """Run with --json; standard output must be one object and nothing else."""
    done = run(*arguments, "--json", **options)
    assert done.exit_code == 0, done.stderr
    found = json.loads(done.stdout)
    assert isinstance(found, dict)
    return found


def refused(*arguments: object, **options: Any) -> str:
    """Run what must be refused in one line; returns the line."""
    done = run(*arguments, **options)
    lines = done.stderr.splitlines()
    errors = [line for line in lines if not line.startswith("warning: ")]
    assert done.exit_code == 1, done.output
    assert done.stdout == ""
    assert len(errors) == 1
    assert errors[0].startswith("error: ")
    return errors[0]


def start(*arguments: object, **environment: str) -> subprocess.Popen[str]:
    """Start `ttc` in a process of its own, which heeds interrupts."""
    # A shell's background jobs ignore them, and so would what they start.
    before = signal.signal(signal.SIGINT, signal.default_int_handler)
    try:
        return subprocess.Popen(
            [sys.executable, "-m", "ttc", *map(str, arguments)],
            cwd=ROOT,
            env={**os.environ, **environment},
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
        )
    finally:
        signal.signal(signal.SIGINT, before)


def step_lines(done: Result) -> list[str]:
    """The lines of --show-steps."""
    assert done.exit_code == 0, done.stderr
    return [line for line in done.stderr.splitlines() if " | " in line]
