"""A backend that is added as an experiment touches its folder and the table of names, nothing else."""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

import ttc
from ttc.errors import InputError

ROOT = Path(__file__).parents[3]
LOAD = """
from ttc.runtime.backends.torch.load import load as load_torch

def load(bundle, settings):
    backend = load_torch(bundle, settings)
    backend.name = "my-experiment"
    return backend
"""
# `ttc.base.names` with one more row, before anything reads it, and one more place for folders of backends.
START = """
import sys
from importlib.util import find_spec, module_from_spec
from pathlib import Path
import ttc.base

spec = find_spec("ttc.base.names")
source = Path(spec.origin).read_text(encoding="utf-8")
table = "_BACKENDS: Final = ("
assert source.count(table) == 1 and spec.name not in sys.modules
names = ttc.base.names = sys.modules[spec.name] = module_from_spec(spec)
exec(source.replace(table, table + '_Backend("my-experiment", "torch"),'), names.__dict__)

from ttc.runtime import backends
backends.__path__.append(sys.argv.pop(1))
"""
COMMANDS = """
from ttc.cli import main
from ttc.verify.preflight import check_names

check_names(["my-experiment"])
main()
"""


def run(code, *arguments):
    """Run Python code in a fresh interpreter; return what it printed."""
    paths = os.pathsep.join(filter(None, (str(ROOT), os.environ.get("PYTHONPATH"))))
    command = [sys.executable, "-c", code, *map(str, arguments)]
    done = subprocess.run(command, env=os.environ | {"PYTHONPATH": paths}, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    return done.stdout


@pytest.fixture
def home(tmp_path):
    """A folder with the experiment's own."""
    folder = tmp_path / "my_experiment"
    folder.mkdir()
    (folder / "load.py").write_text(LOAD)
    return tmp_path


def test_a_name_that_is_not_in_the_table_is_refused(bundles):
    with pytest.raises(InputError, match="unknown backend 'my-experiment'"):
        ttc.load(bundles("tiny_a"), "my-experiment", "cpu")


def test_an_experiment_is_a_folder_and_a_name(bundles, home):
    options = ("--backend", "my-experiment", "--device", "cpu", "--max-new-tokens", 8, "--json")
    told = run(START + COMMANDS, home, "generate", bundles("miniature", None), "2+2=", *options)
    assert json.loads(told)["backend"] == "my-experiment"


@pytest.mark.parametrize("command", ["bench", "demo", "generate", "profile"])
def test_commands_offer_an_experiment(command, home):
    offered = "".join(run(START + COMMANDS, home, command, "--help").split())  # lines may break anywhere
    assert "[my-experiment|onnxruntime|" in offered
