"""On a GPU: the golden checkpoints at every graph level, with the Triton kernels. Has not run yet."""

import pytest

import ttc
from tests.support.golden import CHECKPOINTS, golden
from tests.support.recorded import options_of, recorded, tokens_of
from ttc.errors import DeviceMemoryError

pytestmark = pytest.mark.gpu


def unasked(result):
    """Notes on anything but the size of the blocks, which the golden cases vary."""
    return [note for note in result.stats.notes if not note.startswith("block_size")]


@pytest.mark.parametrize("level", [0, 1, 2])
@pytest.mark.parametrize("name", CHECKPOINTS)
def test_golden_tokens(bundles, name, level):
    g = golden(name)
    with ttc.load(bundles(name), "torch", "cuda", graph_level=level) as engine:
        for case_name, case in recorded(name, 12).items():
            prompt = g.prompt(case)[0].tolist()
            result = engine.generate(prompt, options_of(case))
            assert list(result.token_ids) == tokens_of(g, case_name), case_name
            assert list(result.stats.nfe_per_block) == case["nfe_per_block"], case_name
            assert (result.stats.graph_level, unasked(result)) == (level, []), case_name


def test_golden_tokens_on_two_gpus(bundles):
    import torch

    if torch.cuda.device_count() < 2:
        pytest.skip("needs two GPUs")
    g = golden("tiny_a")
    with ttc.load(bundles("tiny_a"), "torch", "cuda:0,cuda:1") as engine:
        for case_name, case in recorded("tiny_a", 12).items():
            result = engine.generate(g.prompt(case)[0].tolist(), options_of(case))
            assert list(result.token_ids) == tokens_of(g, case_name), case_name
            assert (result.stats.graph_level, unasked(result)) == (2, []), case_name


def test_warming_up_and_batches(bundles):
    prompts = [[5, 6, 7], [8, 9], list(range(3, 30))]
    with ttc.load(bundles("tiny_a"), "torch", "cuda") as engine:
        engine.warm_up(batch=3, tokens=128, block_size=8)
        together = engine.generate(prompts, max_new_tokens=40, block_size=8)
        alone = [engine.generate(prompt, max_new_tokens=40, block_size=8) for prompt in prompts]
    assert [row.token_ids for row in together] == [row.token_ids for row in alone]


def test_out_of_memory_leaves_the_process_usable(bundles):
    with ttc.load(bundles("tiny_a"), "torch", "cuda") as engine:
        want = engine.generate([5, 6], max_new_tokens=16).token_ids
        with pytest.raises(DeviceMemoryError, match="ask for a smaller batch"):
            engine.runner.new_state(2**22, 4096)
        assert engine.generate([5, 6], max_new_tokens=16).token_ids == want
