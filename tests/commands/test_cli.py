"""The command line as a program: help, usage, exit codes, errors and warnings."""

import logging
import re
import subprocess
import sys
from collections.abc import Callable
from importlib import import_module
from pathlib import Path
from typing import Any

import click
import pytest

import ttc
from tests.support.command_line import run
from ttc.cli import COMMANDS

ROOT = Path(__file__).parents[2]


def test_version() -> None:
    done = run("--version")
    assert (done.exit_code, done.stdout) == (0, f"ttc {ttc.__version__}\n")


def test_help_names_every_command() -> None:
    assert "\n  ttc demo  " in run("--help").stdout
    listed = run("--help").stdout.partition("Commands:")[2]
    assert re.findall(r"^  (\w+)", listed, re.MULTILINE) == list(COMMANDS)


@pytest.mark.parametrize("command", COMMANDS)
def test_every_command_has_help(command: str) -> None:
    assert run(command, "--help").stdout.startswith(f"Usage: ttc {command} ")


@pytest.mark.parametrize(
    "arguments",
    [
        ["nonsense"],
        ["generate"],
        ["generate", "b", "p", "--mode", "magic"],
        ["generate", "b", "p", "--steps", "many"],
        ["export", "c"],
        ["export", "c", "-o", "b", "--dtype", "int8"],
    ],
)
def test_wrong_usage_exits_2(arguments: list[str]) -> None:
    done = run(*arguments)
    assert done.exit_code == 2
    assert done.stdout == ""
    assert "Error: " in done.stderr


def failing(fault: BaseException) -> Callable[..., Any]:
    def fail(*_: object, **__: object) -> Any:
        raise fault

    return fail


@pytest.fixture
def broken(monkeypatch: pytest.MonkeyPatch) -> Callable[[BaseException], None]:
    """Makes `ttc doctor` raise."""
    monkeypatch.delenv("TTC_DEBUG", raising=False)
    return lambda fault: monkeypatch.setattr("ttc.doctor.abilities.examine", failing(fault))


def test_a_bug_is_one_line_and_exits_70(broken: Callable[[BaseException], None]) -> None:
    broken(ZeroDivisionError("two\nlines \x1b[31m"))
    done = run("doctor")
    assert done.exit_code == 70
    assert done.stderr == (
        "internal error: ZeroDivisionError: two\\nlines \\x1b[31m (a bug of ttc; TTC_DEBUG=1 shows where)\n"
    )


def test_a_bug_is_a_traceback_in_debugging(
    broken: Callable[[BaseException], None], monkeypatch: pytest.MonkeyPatch
) -> None:
    broken(ZeroDivisionError())
    monkeypatch.setenv("TTC_DEBUG", "1")
    assert isinstance(run("doctor").exception, ZeroDivisionError)


def test_an_interrupt_exits_130(broken: Callable[[BaseException], None]) -> None:
    broken(KeyboardInterrupt())
    done = run("doctor")
    assert (done.exit_code, done.stderr) == (130, "interrupted\n")


def test_a_warning_is_told_once(monkeypatch: pytest.MonkeyPatch) -> None:
    def warn() -> dict[str, Any]:
        for _ in range(2):
            logging.getLogger("ttc.somewhere").warning("beware of %s", "this")
        logging.getLogger("ttc.somewhere").info("not told")
        return {"gpu": None}

    monkeypatch.setattr("ttc.doctor.abilities.examine", warn)
    done = run("doctor", "--json")
    assert done.stderr == "warning: beware of this\n"
    assert not [h for h in logging.getLogger("ttc").handlers if type(h).__module__ == "ttc.cli"]


def test_a_closed_pipe_is_no_bug(tiny: Path) -> None:
    command = f'"{sys.executable}" -m ttc inspect "{tiny}" --json | true; exit ${{PIPESTATUS[0]}}'
    done = subprocess.run(["bash", "-c", command], cwd=ROOT, capture_output=True, text=True, check=False)
    assert done.returncode in (0, 1)
    assert done.stderr == ""


def test_every_json_option_is_called_json() -> None:
    commands = [getattr(import_module(f"ttc.commands.{name}"), name) for name in COMMANDS]
    groups = [command for command in commands if isinstance(command, click.Group)]
    inner = [command for group in groups for command in group.commands.values()]
    # A service has no result to print.
    without = (*groups, import_module("ttc.commands.serve").serve)
    for command in (command for command in [*commands, *inner] if command not in without):
        assert isinstance(command, click.Command)
        assert any("--json" in parameter.opts for parameter in command.params), command.name


@pytest.mark.parametrize(
    ("command", "name", "old"),
    [
        ("build", "--compute-capability", "--sm"),
        ("generate", "--public-key", "--trust"),
        ("generate", "--token-ids", "--ids"),
        ("verify", "--token-ids", "--ids"),
        ("bench", "--limit", "--problems"),
        ("bench", "--timed-prompts", "--timed"),
    ],
)
def test_options_keep_their_old_names(command: str, name: str, old: str) -> None:
    parameters = getattr(import_module(f"ttc.commands.{command}"), command).params
    assert [name, old] in [parameter.opts for parameter in parameters]
