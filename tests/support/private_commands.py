"""Runs commands one after another in this process and prints, as JSON, which files each left in the home
folder and in the folder for temporary files. An attempt to open a socket of the internet ends the process.

Started as `python -m tests.support.private_commands WORK CHECKPOINT STEP` in an empty folder.
"""

import json
import os
import sys
import tempfile
from collections.abc import Mapping, Sequence
from pathlib import Path

import click

ROOT = Path(__file__).parents[2]
PROBLEMS = ROOT / "ttc" / "miniature" / "problems.jsonl"


def names() -> set[str]:
    """The commands of `ttc` as its own table lists them, those of a group by two words."""
    from ttc.cli import program

    found, context = set(), click.Context(program)
    for name in program.list_commands(context):
        command = program.get_command(context, name)
        within = command.list_commands(context) if isinstance(command, click.Group) else ()
        found |= {f"{name} {each}" for each in within} or {name}
    return found


def name_of(words: str) -> str:
    """Return the command of a key of `commands`: without its option."""
    return words.split(" --")[0]


def commands(work: Path, checkpoint: Path, step: Path) -> Mapping[str, Sequence[object]]:
    """Name of a command, and an option where it does other things with that → its arguments."""
    own = work / "own.bundle"
    few = ("--problems", 2, "--timed", 1, "--repeats", 1, "--max-new-tokens", 8, "--modes", "ar,diffusion")
    return {
        "export": ("export", checkpoint, "-o", own),
        "inspect": ("inspect", own),
        "verify": ("verify", own, "--backend", "onnxruntime", "--max-new-tokens", 4),
        "verify --weights": ("verify", checkpoint, "--weights"),
        "sign": ("sign", own, "--key", work / "key-private.pem"),
        "generate": ("generate", own, "5 6", "--ids", "--max-new-tokens", 4, "--save-steps", work / "a.svg"),
        "bench": ("bench", own, *few, "-o", work / "bench.json", "--report", work / "bench.html"),
        "profile": ("profile", own, "--repeats", 1, "--trace", work / "trace.json"),
        "bench --tasks": ("bench", "miniature", *few, "--tasks", PROBLEMS),
        "plan": ("plan",),
        "plan --serve": ("plan", "--serve", "--rate", 1, "--minutes", 0.1, "--modes", "ar"),
        "quantize": ("quantize", checkpoint, "-o", work / "quantised", "--experts", "int8"),
        "build": ("build", step, "-o", work / "engines"),
        "run": ("run", work / "engines"),
        "cache ls": ("cache", "ls"),
        "cache clear": ("cache", "clear"),
        "doctor": ("doctor",),
        "demo": ("demo", "--prompts", 1, "--json"),
    }


def files(folder: Path) -> list[str]:
    """Every file below a folder."""
    return sorted(str(path.relative_to(folder)) for path in folder.rglob("*") if not path.is_dir())


def main() -> None:
    """Run them all."""
    work, checkpoint, step = map(Path, sys.argv[1:4])
    from tests.support.keys import key_pair
    from ttc.exporter.engines.worker_limits import forbid_network

    key_pair(work, "key")
    forbid_network(kill=True)
    from tests.support.command_line import run

    home, temporary = Path(os.environ["HOME"]), Path(tempfile.gettempdir())
    found = {}
    for name, arguments in commands(work, checkpoint, step).items():
        done = run(*arguments)
        no_gpu = name == "run" and done.exit_code == 1 and "GPU" in done.stderr
        assert done.exit_code == 0 or no_gpu, f"{name}: {done.output}{done.exception!r}"
        found[name] = {"home": files(home), "temporary": files(temporary), "here": os.listdir()}
    sys.stdout.write(json.dumps(found))


if __name__ == "__main__":
    main()
