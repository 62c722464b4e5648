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

ROOT = Path(__file__).parents[2]


def commands(work: Path, checkpoint: Path, step: Path) -> Mapping[str, Sequence[object]]:
    """Name of a command → its arguments."""
    own = work / "own.bundle"
    few = ("--problems", 2, "--timed", 1, "--repeats", 1, "--max-new-tokens", 8, "--modes", "ar,diffusion")
    return {
        "export": ("export", checkpoint, "-o", own),
        "inspect": ("inspect", own),
        "verify": ("verify", own, "--backend", "onnxruntime", "--max-new-tokens", 4),
        "sign": ("sign", own, "--key", work / "key-private.pem"),
        "generate": ("generate", own, "5 6", "--ids", "--max-new-tokens", 4, "--save-steps", work / "a.svg"),
        "bench": ("bench", own, *few, "-o", work / "bench.json", "--report", work / "bench.html"),
        "profile": ("profile", own, "--repeats", 1, "--trace", work / "trace.json"),
        "plan": ("plan",),
        "quantize": ("quantize", checkpoint, "-o", work / "quantised", "--experts", "int8"),
        "build": ("build", step, "-o", work / "engines"),
        "cache": ("cache", "ls"),
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
        assert done.exit_code == 0, f"{name}: {done.output}{done.exception!r}"
        found[name] = {"home": files(home), "temporary": files(temporary), "here": os.listdir()}
    sys.stdout.write(json.dumps(found))


if __name__ == "__main__":
    main()
