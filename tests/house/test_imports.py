"""What importing `ttc` and asking for help load, each seen in a fresh interpreter."""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

import ttc
from ttc import errors
from ttc.cli import COMMANDS

ROOT = Path(__file__).parents[2]
HEAVY = {
    "onnx",
    "onnx_ir",
    "onnxruntime",
    "onnxscript",
    "polygraphy",
    "safetensors",
    "tensorrt",
    "tensorrt_rtx",
    "torch",
    "transformers",
    "triton",
}
# Runs the code it is given and prints, on its last line, the modules that this loaded.
PROBE = """
import json, sys
before = set(sys.modules)
try:
    exec(sys.argv.pop(1))
finally:
    print("\\n" + json.dumps(sorted(set(sys.modules) - before)))
"""


def loaded_by(code: str, *arguments: str, cwd: Path) -> set[str]:
    """Modules loaded by `code`, run outside the repository with the repository's `ttc`."""
    done = subprocess.run(
        [sys.executable, "-c", PROBE, code, *arguments],
        cwd=cwd,
        env={**os.environ, "PYTHONPATH": str(ROOT)},
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    return set(json.loads(done.stdout.splitlines()[-1]))


def tops(modules: set[str]) -> set[str]:
    return {name.split(".", 1)[0] for name in modules}


def test_the_probe_sees_a_heavy_import(tmp_path: Path) -> None:
    assert "onnx" in tops(loaded_by("import onnx", cwd=tmp_path)) & HEAVY


def test_importing_ttc_loads_only_the_standard_library(tmp_path: Path) -> None:
    modules = loaded_by("import ttc; dir(ttc)", cwd=tmp_path)
    assert tops(modules) - sys.stdlib_module_names == {"ttc"}
    assert {name for name in modules if name.startswith("ttc")} == {"ttc", "ttc.errors"}


@pytest.mark.parametrize("command", ["", *COMMANDS])
def test_help_loads_nothing_heavy(tmp_path: Path, command: str) -> None:
    code = "import runpy; runpy.run_module('ttc', run_name='__main__', alter_sys=True)"
    modules = loaded_by(code, *command.split(), "--help", cwd=tmp_path)
    assert "ttc.cli" in modules
    assert not tops(modules) & HEAVY


def test_the_runtime_loads_no_torch(tmp_path: Path) -> None:
    modules = "ttc.formats.bundle, ttc.profiles, ttc.runtime.backends.onnxruntime"
    code = f"import ttc; ttc.load; ttc.Result; import {modules}"
    found = loaded_by(code, cwd=tmp_path)
    assert not tops(found) & (HEAVY - {"onnx", "onnx_ir", "onnxruntime"})


@pytest.mark.slow
def test_text_from_a_bundle_without_torch(tmp_path: Path) -> None:
    bundle = ttc.export(ROOT / "ttc" / "miniature", tmp_path / "mini.bundle")
    code = """
import sys, ttc
absent = ("onnxscript", "safetensors", "tensorrt", "torch", "transformers", "triton")
sys.modules.update(dict.fromkeys(absent))  # None: an import of it fails as if it were not installed
with ttc.load(sys.argv[1]) as engine:
    assert engine.generate("Question: Sort 26, 93, 13.\\nAnswer:", max_new_tokens=20).text
"""
    loaded_by(code, str(bundle), cwd=tmp_path)


def test_the_folders_are_no_modules_of_their_own(tmp_path: Path) -> None:
    code = "import ttc; [getattr(ttc, name) for name in ttc.__all__]"
    assert not tops(loaded_by(code, cwd=tmp_path)) & {"exporter", "plugins", "profiles", "runtime", "serving"}
    assert not sys.modules.keys() & {"exporter", "plugins", "profiles", "runtime", "serving"}


def test_public_names() -> None:
    assert ttc.__all__ == sorted(ttc.__all__)
    assert all(getattr(ttc, name) is not None for name in ttc.__all__)
    assert set(ttc.__all__) <= set(dir(ttc))
    assert set(ttc._HOMES) <= set(ttc.__all__)


def test_every_error_is_public_and_of_one_tree() -> None:
    assert set(errors.__all__) <= set(ttc.__all__)
    assert all(issubclass(getattr(errors, name), ttc.TtcError) for name in errors.__all__)


def test_an_unknown_name() -> None:
    with pytest.raises(AttributeError, match="module 'ttc' has no attribute 'lode'"):
        getattr(ttc, "lode")  # noqa: B009 - a plain access is a type error
