"""A changed kernel is a changed engine: the digests cover every file that kernels and plugins are made of."""

from pathlib import Path

import pytest

from tests.support.source_modules import ROOT, read_modules
from ttc.exporter.engines import source_digests as kernels
from ttc.plugins.table import OPS

MODULES = read_modules(ROOT)
HOMES = sorted({op.package for op in OPS})


def reached(start):
    """Modules of ttc.plugins that these import, directly or through one another."""
    found, todo = set(), list(start)
    while todo:
        name = todo.pop()
        if name in MODULES and name not in found and name.startswith("ttc.plugins"):
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
