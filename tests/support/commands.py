"""The commands of documents, run as a reader would type them."""

import os
import shlex
import subprocess
import sys
from collections.abc import Mapping
from pathlib import Path

ROOT = Path(__file__).parents[2]
_POINT = "[polygraphy.run.plugins]\nttc = ttc.polygraphy_ext.arguments:argument_groups\n"
_POLYGRAPHY = "import sys; from polygraphy.tools._main import main; sys.exit(main())"


def command_environment(folder: Path) -> dict[str, str]:
    """`ttc`, `python`, `polygraphy` as commands of this Python and the entry point of an installed `ttc`."""
    folder.mkdir(exist_ok=True)
    python = shlex.quote(sys.executable)
    for name, words in (
        ("ttc", "-P -m ttc"),
        ("python", ""),
        ("polygraphy", f"-c {shlex.quote(_POLYGRAPHY)}"),
    ):
        shim = folder / name
        shim.write_text(f'#!/bin/sh\nexec {python} {words} "$@"\n')
        shim.chmod(0o755)
    site = folder / "ttc_entry_point-0.dist-info"
    site.mkdir(exist_ok=True)
    (site / "METADATA").write_text("Metadata-Version: 2.1\nName: ttc-entry-point\nVersion: 0\n")
    (site / "entry_points.txt").write_text(_POINT)
    return {
        **os.environ,
        "PATH": f"{folder}{os.pathsep}{os.environ['PATH']}",
        "PYTHONPATH": f"{ROOT}{os.pathsep}{folder}",
        "POLYGRAPHY_AUTOINSTALL_DEPS": "0",
    }


def run_block(kind: str, script: str, folder: Path, environment: Mapping[str, str]) -> str:
    """What a fenced block prints; a failure shows the block and all that it said."""
    program = [sys.executable, "-P", "-c"] if kind == "python" else ["bash", "-euo", "pipefail", "-c"]
    done = subprocess.run(
        [*program, script], cwd=folder, env=environment, capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, f"{script}\n{done.stdout}{done.stderr}"
    return done.stdout


def run_polygraphy(*words: object, folder: Path, **environment: str) -> "subprocess.CompletedProcess[str]":
    """Run `polygraphy` in `folder`, on TensorRT-RTX and without installing anything."""
    settings = {"POLYGRAPHY_USE_TENSORRT_RTX": "1", "POLYGRAPHY_AUTOINSTALL_DEPS": "0"}
    return subprocess.run(
        [sys.executable, "-c", _POLYGRAPHY, *map(str, words)],
        cwd=folder,
        env={**os.environ, **settings, **environment},
        capture_output=True,
        text=True,
        timeout=200,
        check=False,
    )
