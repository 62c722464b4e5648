"""What the GPU benchmark reckons with, and the form of its report; the figures need a GPU."""

import numpy as np
import pytest

from benchmarks import gpu_reckoning as reckoning
from benchmarks.export_real_size import CONFIG
from benchmarks.gpu_reckoning import BLOCK, Work
from ttc.base.dtypes import numpy_dtype
from ttc.model.config import ModelConfig
from ttc.model.weights import CONTEXT, DENOISER

GB = 1e9


@pytest.fixture(scope="module")
def real():
    return ModelConfig.from_hf(CONFIG)


def test_bytes_of_the_real_model(real):
    """The published sizes: 31.58 B parameters a tower, 3.7 GB of dense weights, 20 MB an expert."""
    assert reckoning.tower_bytes(real, CONTEXT) == pytest.approx(2 * 31.58e9, rel=1e-3)
    few, more = (reckoning.bytes_that_must_move(real, Work("denoise", 1, d), 0) for d in (6, 7))
    assert few["dense weights"] / GB == pytest.approx(3.7, abs=0.1)
    assert (more["expert weights"] - few["expert weights"]) / 23 / 1e6 == pytest.approx(20, abs=0.1)
    assert few["logits"] == 2 * 16 * 131072 * 2, "written and read, in bfloat16"
    one, two = (reckoning.bytes_that_must_move(real, Work("ar", 1, 6), n)["state"] for n in (1, 2))
    assert two - one == 6 * 2 * 2 * 128 * 2, "6 KiB of keys and values a token"


def test_weight_bytes_are_what_the_export_makes_of_a_checkpoint(bundles):
    from ttc.model.bundle import Bundle

    with Bundle.open(bundles("tiny_a")) as bundle:
        shapes = {
            name: spec[1]
            for tower in (CONTEXT, DENOISER)
            for name, spec in reckoning.weight_shapes(bundle.config, tower).items()
        }
        assert shapes == {name: entry.shape for name, entry in bundle.weights.items()}


@pytest.mark.parametrize(("tokens", "distinct"), [(16, 6), (16, 14), (16, 96), (128, 128), (1, 6)])
def test_forced_routing_is_what_the_op_would_give(real, tokens, distinct):
    made = reckoning.routing(real, tokens, distinct)
    experts, K = made["expert_ids"], real.num_experts_per_tok
    assert len(np.unique(experts)) == distinct
    assert all(len(set(row)) == K for row in experts.tolist()), "no token takes an expert twice"
    flat = experts.ravel()
    pairs, rows, offsets = made["grouped_pairs"], made["grouped_rows"].ravel(), made["expert_offsets"]
    np.testing.assert_array_equal(pairs[rows], np.arange(tokens * K))
    for expert in range(real.n_routed_experts):
        own = pairs[offsets[expert] : offsets[expert + 1]]
        np.testing.assert_array_equal(own, np.flatnonzero(flat == expert))
    np.testing.assert_allclose(made["weights"].sum(-1), real.routed_scaling_factor, rtol=1e-6)


def test_no_more_experts_than_pairs(real):
    assert reckoning.distinct_experts(real, Work("denoise", 1, 128)) == 96
    assert reckoning.distinct_experts(real, Work("ar", 1, 25)) == 6
    assert reckoning.distinct_experts(real, Work("extend", 8, 128)) == 128


def test_steps_per_block_are_the_published_ones():
    steps = reckoning.draw_steps(20_000)
    assert set(steps) == {2, 10, 11, 12, 13}
    assert np.mean(steps) == pytest.approx(BLOCK / reckoning.TOKENS_PER_NFE, rel=0.02)
    assert steps == reckoning.draw_steps(20_000)


def test_what_fits(real):
    h200, h100, small = (reckoning.fit(real, int(size * 2**30)) for size in (139, 78, 40))
    assert (h200.layers, h200.both) == (52, True)
    assert (h100.layers, h100.both) == (52, False)
    assert small.layers < 52
    assert "only the first" in small.label
    assert reckoning.tower_bytes(reckoning.shortened(real, small.layers), DENOISER) < 40 * 2**30
    with pytest.raises(SystemExit, match="not even 6 layers fit"):
        reckoning.fit(real, 2**20)


def test_one_evaluation_in_ar_steps(real):
    rows = [
        reckoning.row(real, work, seconds, 1024, 3e12)
        for work, seconds in ((Work("denoise", 1, 25), 0.006), (Work("ar", 1, 6), 0.003))
    ]
    (found,) = reckoning.nfe_in_ar_steps(rows)
    assert found["measured"] == pytest.approx(2.0)
    assert found["by_bytes"] == pytest.approx(sum(rows[0]["bytes"].values()) / sum(rows[1]["bytes"].values()))
    assert rows[0]["times_floor"] == pytest.approx(1 / rows[0]["bandwidth_share"])


def test_goals():
    lines = [
        {"stage": "steps", "what": "denoise", "distinct_experts": 68, "times_floor": 1.2},
        {"stage": "steps", "what": "denoise", "distinct_experts": 68, "times_floor": 1.3},
        {"stage": "steps", "what": "denoise", "distinct_experts": 6, "times_floor": 1.9},
        {"stage": "steps", "what": "ar", "times_floor": 1.4},
        {"stage": "blocks", "what": "block", "graph_level": 2, "launches": 1.0, "waits_inside": 0.0},
        {"stage": "blocks", "what": "block", "graph_level": 1, "launches": 7.0, "waits_inside": 6.0},
        {"stage": "experts", "tokens": 1, "experts": 6, "up_share": 0.9, "down_share": 0.8},
        {"stage": "experts", "tokens": 1, "experts": 6, "up_share": 0.95, "down_share": 0.87},
        {"stage": "experts", "tokens": 1, "experts": 6, "tile": "x", "error": "refused"},
        {"stage": "experts", "tokens": 2048, "experts": 128, "up_share": 0.3, "down_share": 0.3},
    ]
    found = {goal["goal"]: (goal["measured"], goal["met"]) for goal in reckoning.goals(lines)}
    assert found["denoise step of 68 experts: times its floor"] == (1.3, False), "the worst counts"
    assert found["AR step: times its floor"] == (1.4, True)
    assert found["times as fast as eager towers"] == (None, None), "not measured is not met"
    assert found["launches per block at level 2"] == (1.0, True)
    assert found["expert products, best tile: share of the read bandwidth"] == (0.87, True)


def test_one_gpu_against_two():
    """Over fake devices: the form, and the bytes that follow a block."""
    from benchmarks import gpu_two
    from benchmarks.gpu_stages import SMALL
    from tests.support.fake_device import no_compiler, with_loop_kernel
    from ttc.plugins.naive import run_naive
    from ttc.runtime.gpu.executor import mamba_specs, new_kv_specs

    config = ModelConfig.from_hf(CONFIG | SMALL)
    devices = [with_loop_kernel(name=f"cuda:{i}") for i in range(2)]
    lines = gpu_two.compare(config, devices, run_naive, (1, 2), 4, 2, [no_compiler])
    assert [line["batch"] for line in lines] == [1, 2]
    for line in lines:
        assert min(line[f"{key}_ms"] for key in ("one", "two", "two_without_copies", "copies")) > 0
        specs = [
            *mamba_specs(config, "bfloat16", line["batch"]).values(),
            *new_kv_specs(config, "bfloat16", line["batch"], BLOCK).values(),
        ]
        expected = sum(int(np.prod(shape)) * numpy_dtype(dtype).itemsize for dtype, shape in specs)
        assert expected <= line["copied_bytes"] < expected + 256 * (len(specs) + 1)
    assert not any(device.blocks for device in devices)
