"""Users' programs as an editor's type checker reads them; `make check` has mypy read the same."""

import json
import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
CLIENTS = Path(__file__).parent / "clients"
PYRIGHT = shutil.which("basedpyright", path=str(Path(sys.executable).parent)) or shutil.which("basedpyright")


@pytest.mark.skipif(PYRIGHT is None, reason="basedpyright is not installed")
def test_pyright_finds_the_slips_and_nothing_else(tmp_path: Path) -> None:
    """Lines that say `type: ignore` hold a misspelt option, an unknown mode and the like."""
    assert PYRIGHT is not None
    settings = tmp_path / "pyrightconfig.json"
    settings.write_text(
        json.dumps(
            {
                "include": [str(CLIENTS)],
                "extraPaths": [str(ROOT)],
                "pythonVersion": "3.11",
                "typeCheckingMode": "standard",
                "enableTypeIgnoreComments": False,
            }
        )
    )
    done = subprocess.run(
        [PYRIGHT, "-p", str(settings), "--pythonpath", sys.executable, "--outputjson"],
        capture_output=True,
        text=True,
        check=False,
    )
    found = json.loads(done.stdout)["generalDiagnostics"]
    errors = {
        (Path(one["file"]).name, one["range"]["start"]["line"] + 1)
        for one in found
        if one["severity"] == "error"
    }
    marked = {
        (path.name, number)
        for path in CLIENTS.glob("*.py")
        for number, line in enumerate(path.read_text(encoding="utf-8").splitlines(), start=1)
        if re.search(r"# type: ignore\[", line)
    }
    assert len(marked) >= 10
    assert errors == marked
