"""`ttc` inside Polygraphy: `polygraphy run` with our runners, replay both ways, `polygraphy debug reduce`."""

import shutil
import sys
from functools import partial
from pathlib import Path

import numpy as np
import onnx
import pytest

from tests.support.commands import command_environment, run_polygraphy
from tests.support.faults import plant
from tests.support.keys import key_pair
from ttc.formats.signatures import sign_folder
from ttc.model import mixers, towers

pytest.importorskip("polygraphy", reason="Polygraphy is not installed")
from ttc.polygraphy_ext import compare
from ttc.polygraphy_ext.inputs import BundleInputs
from ttc.polygraphy_ext.layers import write_layers
from ttc.polygraphy_ext.replay import load_inputs, replay, save_inputs
from ttc.polygraphy_ext.runners import REFERENCE, LoopRunner

ROOT = Path(__file__).parents[2]


@pytest.fixture(scope="module")
def polygraphy(tmp_path_factory):
    """`polygraphy(*words, folder=…)`: the tool, with the entry point as an installed `ttc` declares it."""
    path = command_environment(tmp_path_factory.mktemp("site"))["PYTHONPATH"]
    return partial(run_polygraphy, PYTHONPATH=path)


def test_the_entry_point_is_the_one_of_the_package():
    assert 'polygraphy.run.plugins"]\nttc = "ttc.polygraphy_ext.arguments:argument_groups"' in (
        ROOT / "pyproject.toml"
    ).read_text(encoding="utf-8")


def test_run_compares_our_runners_with_polygraphys(polygraphy, bundles, tmp_path):
    words = ["run", bundles("tiny_a"), "--ttc", "--onnxrt", "--ttc-ref", "--atol", "3e-3", "--rtol", "0"]
    words += ["--save-inputs", "inputs.json", "--save-outputs", "outputs.json"]
    done = polygraphy(*words, folder=tmp_path)
    assert done.returncode == 0, done.stdout + done.stderr
    assert done.stdout.count("Pass Rate: 100.00%") == 2
    # What Polygraphy saved, ttc replays; what ttc writes, Polygraphy takes.
    (feed,) = load_inputs(tmp_path / "inputs.json")
    assert (feed["block_ids"] == 3).any()
    replay(bundles("tiny_a"), "denoiser", tmp_path / "inputs.json", tmp_path / "replayed.json", REFERENCE)
    graph = bundles("tiny_a") / "denoiser.onnx"
    words = ["run", graph, "--onnxrt", "--load-inputs", "inputs.json", "--load-outputs", "replayed.json"]
    again = polygraphy(*words, "--atol", "3e-3", "--ttc-compare", "top1", folder=tmp_path)
    assert again.returncode == 0, again.stdout + again.stderr
    assert "logits: top-1 agreement 1.0000" in again.stdout


def test_a_model_that_is_no_bundle_is_refused_in_a_line(polygraphy, tmp_path):
    x, y = (onnx.helper.make_tensor_value_info(name, onnx.TensorProto.FLOAT, [2]) for name in "xy")
    graph = onnx.helper.make_graph([onnx.helper.make_node("Relu", ["x"], ["y"])], "foreign", [x], [y])
    onnx.save(onnx.helper.make_model(graph), tmp_path / "foreign.onnx")
    done = polygraphy("run", "foreign.onnx", "--ttc", folder=tmp_path)
    assert done.returncode == 1
    said = done.stdout + done.stderr
    assert "--ttc needs a ttc bundle, and " in said
    assert "Traceback" not in said


@pytest.mark.parametrize("runner", ["--ttc", "--ttc-ref", "--ttc-loop", "--ttc-loop-ref"])
def test_every_runner_can_insist_on_a_signature(polygraphy, bundles, tmp_path, runner):
    public = key_pair(tmp_path, "own")[1]
    done = polygraphy("run", bundles("tiny_a"), runner, "--ttc-trust", public, folder=tmp_path)
    assert done.returncode == 1
    said = done.stdout + done.stderr
    assert "this bundle is not signed" in said
    assert "Traceback" not in said


def test_a_signed_bundle_runs(polygraphy, bundles, tmp_path):
    private, public = key_pair(tmp_path, "own")
    copy = shutil.copytree(bundles("tiny_a"), tmp_path / "a.bundle", ignore=shutil.ignore_patterns("verif*"))
    sign_folder(copy, private)
    done = polygraphy("run", copy, "--ttc", "--ttc-trust", public, folder=tmp_path)
    assert done.returncode == 0, done.stdout + done.stderr


def test_saved_inputs_come_back_the_same(bundles, tmp_path):
    save_inputs(bundles("tiny_a"), "context", tmp_path / "inputs.json", iterations=2)
    expected = list(BundleInputs(str(bundles("tiny_a")), "context", 2))
    got = list(load_inputs(tmp_path / "inputs.json"))
    assert len(got) == len(expected) == 2
    for a, b in zip(got, expected, strict=True):
        assert a.keys() == b.keys()
        assert all(np.array_equal(a[name], b[name]) for name in a)
    assert not np.array_equal(expected[0]["input_ids"], expected[1]["input_ids"])
    assert np.abs(expected[0]["ssm_state.0"]).max() > 0, "the state is that of a prefill"


def test_a_whole_generation_is_a_runner(bundles):
    (feed,) = BundleInputs(str(bundles("tiny_a")), "loop")
    outputs = {}
    for backend in ("onnxruntime", REFERENCE):
        with LoopRunner(str(bundles("tiny_a")), backend, max_new_tokens=20) as runner:
            outputs[backend] = dict(runner.infer(feed))
    ours, expected = outputs["onnxruntime"], outputs[REFERENCE]
    assert compare.top1(ours, expected) == {"token_ids": True, "nfe": True}
    assert compare.drift(ours, expected) == {"confidence": True}
    assert len(ours["token_ids"]) == 20
    assert ((ours["confidence"] > 0) & (ours["confidence"] <= 1)).all()
    other = expected | {"token_ids": expected["token_ids"] + 1, "confidence": expected["confidence"] - 0.05}
    assert compare.top1(ours, other) == {"token_ids": False, "nfe": True}
    assert compare.drift(ours, other) == {"confidence": False}


def test_comparisons_of_logits():
    draw = np.random.default_rng(0)
    logits = draw.standard_normal((1, 200, 8))
    turned = logits.copy()
    turned[0, :3] = -turned[0, :3]
    assert compare.top1({"logits": logits}, {"logits": logits + 1.0}) == {"logits": True}
    assert compare.top1({"logits": logits}, {"logits": turned}) == {"logits": False}
    assert compare.drift({"logits": logits}, {"logits": logits + 1.0}) == {"logits": True}
    assert compare.drift({"logits": logits}, {"logits": logits * 2}) == {"logits": False}
    assert not all(compare.top1({"a": logits}, {"b": logits}).values())


def test_debug_reduce_finds_the_faulty_layer(polygraphy, bundles, tmp_path, monkeypatch):
    pytest.importorskip("onnx_graphsurgeon", reason="polygraphy debug reduce needs onnx-graphsurgeon")

    def patch():
        def unseeded(config, w, run_op, h, state):
            return mixers.mamba(config, w, run_op, h, (state[0], state[1] * 0))

        monkeypatch.setattr(towers, "mamba", unseeded)

    faulty = plant(bundles("tiny_a"), tmp_path, "denoiser", 2, patch)
    monkeypatch.undo()
    write_layers(str(faulty), "denoiser", tmp_path / "search")
    check = [sys.executable, "-m", "ttc.polygraphy_ext.check", "polygraphy_debug.onnx"]
    words = ["search/layers.onnx", "-o", "wrong.onnx", "--no-reduce-inputs", "--no-shape-inference"]
    words += ["--ignore-fail-code", "2", "--check", *check, "--golden", "search/golden.npz"]
    done = polygraphy("debug", "reduce", *words, folder=tmp_path)
    assert done.returncode == 0, done.stdout + done.stderr
    found = onnx.load(tmp_path / "wrong.onnx").graph
    assert found.node[-1].name == "layers.2.mamba"
    assert [value.name for value in found.output] == ["layers.2.mamba/x"]
