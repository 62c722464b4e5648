"""The commands in the documents of verify, profile and Polygraphy run, on a small model and a broken one."""

import shutil

import pytest

from tests.house.test_docs import blocks, read
from tests.support.commands import command_environment, run_block
from tests.support.faults import plant
from ttc.model import mixers, towers

DOCUMENTS = ("docs/verify.md", "docs/profiling.md", "docs/different-text.md", "docs/polygraphy.md")


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
    return command_environment(tmp_path_factory.mktemp("bin"))


@pytest.mark.slow
@pytest.mark.parametrize("document", DOCUMENTS)
def test_the_commands_run(document, work, environment):
    if "polygraphy" in document:
        pytest.importorskip("onnx_graphsurgeon", reason="polygraphy debug reduce needs onnx-graphsurgeon")
    tested = [block for block in blocks(read(document)) if block.tested]
    assert tested
    said = ""
    for block in tested:
        said += run_block(block.kind, block.script(), work, environment)
    if document == "docs/different-text.md":
        begins = "it begins in the denoiser tower, layer 2 (Mamba-2): its residual is off by"
        assert begins in read(document)
        assert said.count(begins) == 3
