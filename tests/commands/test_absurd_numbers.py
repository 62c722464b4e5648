"""Numbers that nobody can mean are refused in one short line, before anything is allocated or awaited."""

from pathlib import Path

import click
import pytest

from tests.support.command_line import run
from ttc.cli import program

HUGE = 10**400  # more than a float holds
# What a command needs beside a number.
NEEDS = {
    "generate": ("5", "--ids", "--max-new-tokens", "1"),
    "bench": ("--timed", "1", "--max-new-tokens", "1", "--modes", "ar"),
    "verify": ("--backend", "onnxruntime"),
    "profile": ("--repeats", "1"),
    "plan": ("--modes", "ar", "--minutes", "0.01"),
}
# Options of `ttc plan` that do not need --serve.
PLAIN = (
    "--batch",
    "--context",
    "--tokens-per-nfe",
    "--block-size",
    "--overlap",
    "--accepted",
    "--draft-steps",
)
# A number that is hardly more than nothing is a probability, a share, a time, a speed.
TINY = {
    "--threshold",
    "--top-p",
    "--overlap",
    "--call-us",
    "--tick-us",
    "--p95",
    "--peak-flops",
    "--peak-bandwidth",
    "--tokens-per-nfe",
    "--draft-steps",
    "--rate",
    "--minutes",
}
# Any integer is one.
FREE = {("plan", "--seed")}


def options(*kinds: str) -> list[tuple[str, str]]:
    """Every option of these commands that takes a number: (command, option)."""
    context = click.Context(program)
    commands = {name: program.get_command(context, name) for name in NEEDS}
    return [
        (name, next(word for word in option.opts if word.startswith("--")))
        for name, command in commands.items()
        for option in getattr(command, "params", ())
        if isinstance(option, click.Option) and _kind(option) in kinds
    ]


def _kind(option: click.Option) -> str:
    several = getattr(option.type, "kind", None)
    return "floats" if several is float else "integers" if several is int else option.type.name


def refuse(command: str, option: str, value: object, bundle: Path) -> str:
    serve = ("--serve",) if command == "plan" and option not in PLAIN else ()
    subject = () if command == "plan" else (bundle,)
    words = [word for word in NEEDS[command] if serve or command != "plan"]
    done = run(command, *subject, *words, *serve, option, value)
    lines = [line for line in done.stderr.splitlines() if line.lower().startswith(("error", "internal"))]
    assert done.exit_code in (1, 2), done.output
    assert len(lines) == 1
    assert len(lines[0]) < 700
    return lines[0]


PLAIN = (
    "--batch",
    "--context",
    "--tokens-per-nfe",
    "--block-size",
    "--overlap",
    "--accepted",
    "--draft-steps",
)


@pytest.mark.parametrize(("command", "option"), options("integer", "integer range", "integers"))
@pytest.mark.timeout(60)
def test_huge_integers(command: str, option: str, tiny: Path) -> None:
    if (command, option) not in FREE:
        refuse(command, option, HUGE, tiny)


@pytest.mark.parametrize(("command", "option"), options("float", "float range", "floats"))
@pytest.mark.parametrize("value", ["nan", "inf", "-1", "1e-320"])
@pytest.mark.timeout(60)
def test_odd_decimals(command: str, option: str, value: str, tiny: Path) -> None:
    if value != "1e-320" or option not in TINY:
        refuse(command, option, value, tiny)
