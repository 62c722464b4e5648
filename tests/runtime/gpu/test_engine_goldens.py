"""Engines on a fake device: the golden tokens through whole engines and partitioned graphs."""

import sys

import numpy as np
import pytest

import ttc
from tests.support.fake_engines import PROFILE, write_engines
from tests.support.golden import CHECKPOINTS, golden
from tests.support.recorded import options_of, recorded, tokens_of
from ttc.errors import CapacityError
from ttc.formats.engines import EngineFolder
from ttc.runtime.gpu import append_kv
from ttc.runtime.gpu import load_engines as loading
from ttc.runtime.gpu.device import ALIGNMENT
from ttc.runtime.gpu.ptx_ops import PtxOps
from ttc.verify.backends import Candidate
from ttc.verify.compare import compare
from ttc.verify.observe import observe
from ttc.verify.scenario import Shapes, make_scenario
from ttc.verify.tolerances import tolerances_of


@pytest.mark.parametrize("form", ["cut", "whole"])
@pytest.mark.parametrize("name", CHECKPOINTS)
def test_golden_tokens(bundles, engine_folders, fake_gpu, name, form):
    g = golden(name)
    with ttc.load(bundles(name), "tensorrt-rtx", engines=engine_folders(name, form)) as engine:
        taken = 0
        for case_name, case in recorded(name, 6).items():
            if case["block_size"] > 16 or case["max_new_tokens"] + g.prompt(case).shape[1] > 128:
                continue
            prompt = g.prompt(case)[0].tolist()
            result = engine.generate(prompt, options_of(case))
            assert list(result.token_ids) == tokens_of(g, case_name), case_name
            assert list(result.stats.nfe_per_block) == case["nfe_per_block"], case_name
            assert result.stats.graph_level == 2
            taken += 1
        assert taken >= 3
        assert engine.backend == "tensorrt-rtx"
    assert not fake_gpu.blocks, "closing gives all memory back"


@pytest.mark.parametrize("form", ["cut", "whole"])
def test_golden_tokens_on_two_gpus(bundles, engine_folders, fake_gpus, api, form):
    """Each tower's engines and weights on a GPU of its own, which nothing of the other tower reaches."""
    g, bundle, engines = golden("tiny_a"), bundles("tiny_a"), engine_folders("tiny_a", form)
    with ttc.load(bundle, "tensorrt-rtx", "cuda:0,cuda:1", engines=engines) as engine:
        loaded = EngineFolder.open(engines, None).manifest.engines
        homes = {"context": "cuda:0", "advance": "cuda:0", "denoiser": "cuda:1", "step": "cuda:1"}
        assert sorted(api.made_on) == sorted(homes[record.role] for record in loaded.values())
        checked = 0
        for case_name, case in recorded("tiny_a", 40).items():
            if case["block_size"] <= 16 and case["max_new_tokens"] + g.prompt(case).shape[1] <= 128:
                result = engine.generate(g.prompt(case)[0].tolist(), options_of(case))
                assert list(result.token_ids) == tokens_of(g, case_name), case_name
                assert result.stats.graph_level == 2
                checked += 1
        assert checked >= 2
        rows = [[5, 6, 7], [8, 9]]
        ar = engine.generate(rows, mode="ar", max_new_tokens=10, stop_at_eos=False)
        lossless = engine.generate(rows, mode="lossless", max_new_tokens=10, stop_at_eos=False)
        assert [row.token_ids for row in lossless] == [row.token_ids for row in ar]
    assert not any(device.blocks or device.pinned_bytes for device in fake_gpus)
    assert all(device.closed for device in fake_gpus)


@pytest.mark.parametrize("device", ["cuda:0", "cuda:0,cuda:1"])
def test_verify_sees_the_states(bundles, engines, engine_folders, fake_gpus, device):
    """Its calls, on engines and on the torch towers: every state tensor is compared after each of them."""
    load = {"engines": engine_folders("tiny_a"), "device": device}
    with ttc.load(bundles("tiny_a"), "tensorrt-rtx", **load) as engine:
        scenario = make_scenario(engine.config, Shapes.within(engine.runner.limits))
        got, want = (
            list(observe(Candidate(backend, "float32", "", "", shows_layers=False), scenario, 128))
            for backend in (engine.runner, engines("tiny_a", "torch").runner)
        )
    for a, b in zip(got, want, strict=True):
        compared = list(compare(a, b, tolerances_of("float32"), "torch", {}))
        assert not [line for line in compared if not line.passed], a.call
        tensors = {line.tensor for line in compared}
        assert tensors >= {"conv_state", "ssm_state", "k_cache", "v_cache"}, a.call


@pytest.mark.parametrize("form", ["cut", "whole"])
@pytest.mark.parametrize("choice", [{}, {"temperature": 0.9, "seed": 3}], ids=["greedy", "sampled"])
def test_the_modes_that_write_what_ar_writes(bundles, engines, engine_folders, fake_gpu, form, choice):
    prompts, options = [[5, 6, 7, 8], [9, 10], list(range(3, 30))], {"max_new_tokens": 10} | choice
    want = engines("tiny_a", "torch").generate(prompts, "ar", **options)
    with ttc.load(bundles("tiny_a"), "tensorrt-rtx", engines=engine_folders("tiny_a", form)) as engine:
        for mode in ("ar", "lossless", "prompt-lookup"):
            got = engine.generate(prompts, mode, **options)
            assert [row.token_ids for row in got] == [row.token_ids for row in want], mode
            assert not [note for note in got[0].stats.notes if "chosen on the host" in note]


def test_whole_engines_without_triton_choose_on_the_host(
    bundles, engines, engine_folders, fake_gpu, monkeypatch
):
    monkeypatch.setattr(loading, "PtxOps", PtxOps)
    monkeypatch.setitem(sys.modules, "ttc.plugins.kernels", None)
    want = engines("tiny_a", "torch").generate([5, 6], "ar", max_new_tokens=6)
    with ttc.load(bundles("tiny_a"), "tensorrt-rtx", engines=engine_folders("tiny_a", "whole")) as engine:
        got = engine.generate([5, 6], "ar", max_new_tokens=6)
    assert got.token_ids == want.token_ids
    assert any("chosen on the host" in n and "triton is not installed" in n for n in got.stats.notes)


def test_golden_tokens_of_the_networks_that_tensorrt_gets(bundles, tmp_path, fake_gpu):
    """Their ops stand for plugins, and their weights are transposed and converted while they are loaded."""
    g, folder = golden("tiny_a"), write_engines(bundles("tiny_a"), tmp_path / "e", "whole", plugins=True)
    engines = EngineFolder.open(folder, None).manifest.engines
    taken = {t.name for record in engines.values() for t in record.inputs if t.kind == "weight"}
    assert {"lm_head.weight|transpose(1,0)", "context_lm_head.weight|transpose(1,0)"} <= taken
    assert not {"lm_head.weight", "context_lm_head.weight"} & taken
    with ttc.load(bundles("tiny_a"), "tensorrt-rtx", engines=folder) as engine:
        checked = 0
        for case_name, case in recorded("tiny_a", 6).items():
            if case["block_size"] <= 16 and case["max_new_tokens"] + g.prompt(case).shape[1] <= 128:
                result = engine.generate(g.prompt(case)[0].tolist(), options_of(case))
                assert list(result.token_ids) == tokens_of(g, case_name), case_name
                checked += 1
        assert checked >= 3
    assert not fake_gpu.blocks, "closing gives all memory back"


def test_engines_of_fixed_lengths(bundles, tmp_path, fake_gpu):
    """Block and chunk fixed: one engine reads a token, one a block, one a chunk; the rest is filled up."""
    fixed = PROFILE.override({"block": {"min": 8, "max": 8}, "chunk": {"min": 16, "opt": 16}})
    folder = write_engines(bundles("tiny_a"), tmp_path / "fixed", "whole", fixed)
    assert {"context-1", "context-8", "context-16"} <= {path.stem for path in folder.glob("*.engine")}
    g, checked = golden("tiny_a"), 0
    with ttc.load(bundles("tiny_a"), "tensorrt-rtx", engines=folder) as engine:
        for case_name, case in recorded("tiny_a", 40).items():
            if case["block_size"] == 8:
                result = engine.generate(g.prompt(case)[0].tolist(), options_of(case))
                assert list(result.token_ids) == tokens_of(g, case_name), case_name
                checked += 1
        assert checked >= 3
        assert len(engine.generate([5, 6], mode="ar", max_new_tokens=3).token_ids) <= 3
        with pytest.raises(CapacityError, match=r"calls over 16 tokens keep 15 free"):
            engine.generate([5, 6], max_new_tokens=112, block_size=8)


@pytest.mark.parametrize(
    ("level", "kernel"),
    [(None, True), *(pytest.param(*each, marks=pytest.mark.full) for each in ((None, False), (0, True)))],
)
def test_a_context_call_moves_new_kv_not_caches(bundles, engine_folders, fake_gpu, level, kernel):
    """Golden tokens, however the new keys and values get into the caches, and no copy as large as a cache."""
    if not kernel:
        fake_gpu.kernels.pop(append_kv.KERNEL)
    copied = []
    copy = fake_gpu.copy
    fake_gpu.copy = lambda target, source: copied.append(source.nbytes) or copy(target, source)
    g = golden("tiny_a")
    load = {"engines": engine_folders("tiny_a"), "graph_level": level}
    with ttc.load(bundles("tiny_a"), "tensorrt-rtx", **load) as engine:
        for case_name, case in recorded("tiny_a", 40).items():
            if case["block_size"] <= 16 and case["max_new_tokens"] + g.prompt(case).shape[1] <= 128:
                result = engine.generate(g.prompt(case)[0].tolist(), options_of(case))
                assert list(result.token_ids) == tokens_of(g, case_name), case_name
                assert result.stats.graph_level == (2 if kernel and level is None else 0)
        assert any("ttc_write_cache_rows cannot be had" in n for n in result.stats.notes) != kernel
        # A call of another size, which is not replayed from a graph.
        state, four = engine.runner.new_state(2, 128), np.array([4, 4], np.int32)
        copied.clear()
        engine.runner.context(state, np.full((2, 4), 5, np.int32), four, np.zeros((2, 1), np.int32))
        caches = {name: array.nbytes for name, array in state.tensors.items() if "_cache." in name}
        mamba = sum(array.nbytes for array in state.tensors.values()) - sum(caches.values())
        moved = 0 if kernel and level is None else sum(caches.values()) * 4 // 128
        # The Mamba state is copied with the gaps that keep its tensors aligned.
        gaps = ALIGNMENT * (len(state.tensors) - len(caches))
        assert mamba + moved <= sum(copied) < mamba + moved + gaps
        assert gaps < min(caches.values())


def test_an_engine_that_cannot_be_captured_runs_without_graphs(bundles, engine_folders, fake_gpu, api):
    load = {"backend": "tensorrt-rtx", "engines": engine_folders("tiny_a")}
    options = {"max_new_tokens": 40, "block_size": 8, "stop_at_eos": False}
    with ttc.load(bundles("tiny_a"), **load) as engine:
        want = engine.generate([5, 6], **options)
    assert want.stats.graph_level == 2
    asked, contexts = api.calls.count("is_stream_capturable"), api.calls.count("context")
    assert asked >= contexts
    api.refuse = "is_stream_capturable"
    with ttc.load(bundles("tiny_a"), **load) as engine:
        result = engine.generate([5, 6], **options)
    assert (result.token_ids, result.stats.graph_level) == (want.token_ids, 0)
    assert any("says that engine context-00 cannot be captured" in note for note in result.stats.notes)
