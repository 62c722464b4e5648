"""The commands in the documents of verify, profile and Polygraphy run, on a small model and a broken one."""

import os
import shlex
import shutil
import subprocess
import sys

import pytest

from tests.support.faults import plant
from tests.test_docs import ROOT, blocks, read
from ttc.exporter import mixers, towers

DOCUMENTS = ("docs/verify.md", "docs/profiling.md", "docs/different-text.md", "docs/polygraphy.md")
POINT = "[polygraphy.run.plugins]\nttc = ttc.polygraphy_ext.arguments:argument_groups\n"
POLYGRAPHY = "-c 'import sys; from polygraphy.tools._main import main; sys.exit(main())'"


@pytest.fixture(scope="module")
def work(bundles, tmp_path_factory):
    """A folder with model.bundle, and with faulty.bundle, whose denoiser forgets a state."""
    folder = tmp_path_factory.mktemp("work")
    shutil.copytree(bundles("tiny_a"), folder / "model.bundle")  # verify writes its record there

    def unseeded(config, w, run_op, h, state):
        return mixers.mamba(config, w, run_op, h, (state[0], state[1] * 0))

    with pytest.MonkeyPatch.context() as patched:
        plant(
            bundles("tiny_a"),
            folder,
            "denoiser",
            2,
            lambda: patched.setattr(towers, "mamba", unseeded),
        )
    return folder


@pytest.fixture(scope="module")
def environment(tmp_path_factory):
    """`ttc`, `python` and `polygraphy` as commands, and the entry point as an installed `ttc` has it."""
    commands = tmp_path_factory.mktemp("bin")
    python = shlex.quote(sys.executable)
    for name, words in (("ttc", "-P -m ttc"), ("python", ""), ("polygraphy", POLYGRAPHY)):
        shim = commands / name
        shim.write_text(f'#!/bin/sh\nexec {python} {words} "$@"\n')
        shim.chmod(0o755)
    site = commands / "ttc_entry_point-0.dist-info"
    site.mkdir()
    (site / "METADATA").write_text("Metadata-Version: 2.1\nName: ttc-entry-point\nVersion: 0\n")
    (site / "entry_points.txt").write_text(POINT)
    return {
        **os.environ,
        "PATH": f"{commands}{os.pathsep}{os.environ['PATH']}",
        "PYTHONPATH": f"{ROOT}{os.pathsep}{commands}",
        "POLYGRAPHY_AUTOINSTALL_DEPS": "0",
    }


@pytest.mark.slow
@pytest.mark.parametrize("document", DOCUMENTS)
def test_the_commands_run(document, work, environment):
    if "polygraphy" in document:
        pytest.importorskip("onnx_graphsurgeon", reason="polygraphy debug reduce needs onnx-graphsurgeon")
    tested = [block for block in blocks(read(document)) if block.tested]
    assert tested
    said = ""
    for block in tested:
        program = (
            [sys.executable, "-P", "-c"] if block.kind == "python" else ["bash", "-euo", "pipefail", "-c"]
        )
        done = subprocess.run(
            [*program, block.script()],
            cwd=work,
            env=environment,
            capture_output=True,
            text=True,
            check=False,
        )
        assert done.returncode == 0, f"{block.body}\n{done.stdout}{done.stderr}"
        said += done.stdout
    if document == "docs/different-text.md":
        begins = "it begins in the denoiser tower, layer 2 (Mamba-2): its residual is off by"
        assert begins in read(document)
        assert said.count(begins) == 3
