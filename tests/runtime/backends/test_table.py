"""A backend that is added as an experiment touches its folder and the table of names, nothing else."""

import sys

import pytest

import ttc
from ttc.base.names import BACKENDS
from ttc.errors import InputError
from ttc.runtime import backends

LOAD = """
from ttc.runtime.backends.torch.load import load as load_torch

def load(bundle, settings):
    backend = load_torch(bundle, settings)
    backend.name = "my-experiment"
    return backend
"""


def test_an_experiment_is_a_folder_and_a_name(bundles, tmp_path, monkeypatch):
    folder = tmp_path / "my_experiment"
    folder.mkdir()
    (folder / "load.py").write_text(LOAD)
    monkeypatch.setattr(backends, "__path__", [*backends.__path__, str(tmp_path)])
    with pytest.raises(InputError, match="unknown backend 'my-experiment'"):
        ttc.load(bundles("tiny_a"), "my-experiment", "cpu")
    monkeypatch.setattr(backends, "BACKENDS", (*BACKENDS, "my-experiment"))
    try:
        with ttc.load(bundles("tiny_a"), "my-experiment", "cpu") as engine:
            assert engine.backend == "my-experiment"
            assert engine.generate([5, 6], max_new_tokens=8).stats.backend == "my-experiment"
    finally:
        for module in [name for name in sys.modules if name.startswith("ttc.runtime.backends.my_experiment")]:
            del sys.modules[module]
