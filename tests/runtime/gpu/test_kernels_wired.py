"""The torch executor with the real kernels, wired as `ttc.load` wires them: nothing stands between the towers
and the kernels that could make an input fit.

The kernels run in Triton's interpreter, over the fake device, so one small checkpoint has to do.
"""

import dataclasses

import pytest

from tests.support.golden import golden
from tests.support.recorded import options_of, recorded, tokens_of

pytestmark = pytest.mark.slow

CASE = "gen/L12_b8_s4_g0.9"


@pytest.fixture
def in_place():
    """The most tokens that each launch committed of a mixer over the old scan state, as a graph has it."""
    return []


@pytest.fixture
def with_kernels(on_device, in_place):
    from ttc.plugins.triton import run_triton  # not above: the session sets TRITON_INTERPRET first

    def run_op(op, *inputs, out=None, **attributes):
        if op.name in ("MambaMixer", "MambaLongMixer") and out is not None:
            in_place.append(int(inputs[-1].max()))
        return run_triton(op, *inputs, out=out, **attributes)

    return lambda level: on_device("tiny_c", level, run_op=run_op, takes_out=True)


def test_golden_tokens(with_kernels):
    """The first block of a recorded run, at the highest level."""
    g, case = golden("tiny_c"), recorded("tiny_c", 12)[CASE]
    options = dataclasses.replace(options_of(case), max_new_tokens=case["block_size"])
    result = with_kernels(2).generate(g.prompt(case)[0].tolist(), options)
    assert list(result.token_ids) == tokens_of(g, CASE)[: case["block_size"]]
    assert list(result.stats.nfe_per_block) == case["nfe_per_block"][:1]
    assert result.stats.graph_level == 2


@pytest.mark.parametrize(
    "prompts", [[[5, 6, 7]], pytest.param([[5], [9] * 3], marks=pytest.mark.full)], ids=["one", "ragged"]
)
def test_ar_as_with_the_naive_ops(with_kernels, on_device, in_place, prompts):
    """Chunks of a prompt and single tokens, alone and together. What a graph launches over the old state was
    launched before the first graph was captured, when it committed nothing.
    """
    asked = {"mode": "ar", "max_new_tokens": 3, "stop_at_eos": False}
    got, want = with_kernels(2).generate(prompts, **asked), on_device("tiny_c").generate(prompts, **asked)
    assert [row.token_ids for row in got] == [row.token_ids for row in want]
    assert in_place[0] == 0
    assert max(in_place) == 1
