"""A changed kernel is a changed engine: the digests cover every file that kernels and plugins are made of."""

import shutil
from importlib.resources import files
from pathlib import Path

import pytest

from tests.support.source_modules import ROOT, read_modules, within
from ttc.exporter.engines import source_digests as kernels
from ttc.plugins.table import OPS

MODULES = read_modules(ROOT)
HOMES = sorted({op.package for op in OPS})


# What builders import that cannot make another engine: `ttc.errors` has only what is raised, and what a
# profile says is part of a graph's key itself.
NO_PART = {"ttc.errors", "ttc.profiles.build_profile"}


def reached(start, inside=("ttc.plugins",)):
    """Modules of these packages that the first ones import, directly or through one another."""
    found, todo = set(), list(start)
    while todo:
        name = todo.pop()
        if name in MODULES and name not in found and within(name, inside):
            found.add(name)
            todo += [wanted.target for wanted in MODULES[name].imports(MODULES)]
    return found


@pytest.mark.parametrize("home", HOMES)
def test_digests_cover_what_an_op_is_made_of(home):
    used = reached([f"{home}.kernel", "ttc.plugins.registration"])
    assert {f"{home}.kernel", "ttc.plugins.tensorrt_qdp", home} <= used
    outside = {name for name in used if name != home and not name.startswith(f"{home}.")}
    not_compiled = {Path(name).stem for name in kernels._NOT_COMPILED}
    shared = {
        name for name in MODULES if name.count(".") == 2 and name.rpartition(".")[2] not in not_compiled
    }
    assert outside - {"ttc.plugins"} <= shared


def test_every_op_has_a_digest():
    digests = kernels.kernel_digests()
    assert digests.keys() == {op.name for op in OPS}
    assert len(set(digests.values())) == len(HOMES)


def digested(name):
    """Whether the file of a module counts in a digest: digests take the files of a package, none below it."""
    file = MODULES[name].path.name
    home = name if MODULES[name].is_package else name.rpartition(".")[0]
    is_of_kernels = home in ("ttc.plugins", *HOMES) and file not in kernels._NOT_COMPILED
    return home in kernels._BUILDER_PACKAGES or is_of_kernels


def test_digests_cover_what_a_network_is_made_by():
    builders = [name for name in MODULES if within(name, ("ttc.exporter.engines", "ttc.exporter.passes"))]
    used = reached(builders, inside=sorted({name for name in MODULES if name != "ttc"}))
    assert {"ttc.model.rewrites", "ttc.model.graphs", "ttc.plugins.functions"} <= used
    assert {name for name in used if not digested(name)} == NO_PART


@pytest.mark.parametrize("package", kernels._BUILDER_PACKAGES)
def test_a_changed_builder_is_another_digest(package, tmp_path, monkeypatch):
    before = kernels.builder_digest()
    copy = shutil.copytree(files(package), tmp_path / "copy", ignore=shutil.ignore_patterns("__pycache__"))
    monkeypatch.setattr(kernels, "files", lambda name: copy if name == package else files(name))
    assert kernels.builder_digest() == before
    changed = sorted(copy.glob("*.py"))[-1]
    changed.write_text(changed.read_text(encoding="utf-8") + "\n", encoding="utf-8")
    assert kernels.builder_digest() != before
