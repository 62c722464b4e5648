"""Building engines with TensorRT-RTX, which needs no GPU for it: what is made of a graph."""

import json

import onnx_ir as ir
import pytest

from tests.support.build_models import content, write_model
from ttc.errors import BackendError, InputError
from ttc.exporter.engines.build import build
from ttc.exporter.engines.build_settings import BuildSettings
from ttc.exporter.engines.engine_builder import EngineBuilder
from ttc.exporter.engines.lower_graph import engine_specs
from ttc.exporter.engines.planning import make_plan
from ttc.formats.engines import EngineFolder
from ttc.formats.manifest import GRAPH_ROLES
from ttc.model.bundle import Bundle
from ttc.model.config import LayerKind
from ttc.profiles.build_profile import load_build_profile

pytest.importorskip("tensorrt_rtx", reason="TensorRT-RTX is not installed")
pytestmark = pytest.mark.usefixtures("cache_folder")
CHECKPOINTS = ("tiny_a", "tiny_b", "tiny_c", "miniature")


ALL = [(name, "float32", form) for name in CHECKPOINTS for form in ("whole", "cut")]
ALL += [("miniature", None, form) for form in ("whole", "cut")]
SAMPLE = [("tiny_a", "float32", "whole"), ("tiny_b", "float32", "cut"), ("miniature", None, "cut")]


@pytest.mark.slow
@pytest.mark.parametrize(
    ("name", "dtype", "form"),
    [pytest.param(*each, marks=[] if each in SAMPLE else pytest.mark.full) for each in ALL],
)
def test_every_golden_checkpoint_builds(bundles, tmp_path, name, dtype, form):
    report = build(bundles(name, dtype), tmp_path / "out", form=form)
    folder = EngineFolder.open(report.output)
    assert set(folder.manifest.sources) == set(GRAPH_ROLES)
    assert sum(len(graph.engines) for graph in report.graphs) == len(folder.manifest.engines)
    if form == "cut":
        for role in GRAPH_ROLES:
            assert set(folder.program(role).engines) == {
                n for n, engine in folder.manifest.engines.items() if engine.role == role
            }
    else:
        assert {engine.role for engine in folder.manifest.engines.values()} == set(GRAPH_ROLES)


def test_tensors_and_ranges_are_the_contract(bundles, tmp_path):
    profile = load_build_profile("throughput").override({"capacity": {"opt": 512, "max": 4096}})
    with Bundle.open(bundles("tiny_a")) as bundle:
        config, path = bundle.config, bundle.graph_path("denoiser")
        weights = {name for name, entry in bundle.weights.items() if "denoiser" in entry.graphs}
    report = build(path, tmp_path / "out", profile=profile)
    assert report.output == tmp_path / "out"
    engine = EngineFolder.open(report.output).manifest.engines["denoiser"]
    tensors = {tensor.name: tensor for tensor in engine.inputs}
    assert {tensor.name for tensor in engine.inputs if tensor.kind == "weight"} == weights
    named = [value.name for value in ir.load(path).graph.inputs]
    assert [tensor.name for tensor in engine.inputs if tensor.kind == "tensor"] == named
    ids, cache = tensors["block_ids"], tensors["k_cache.3"]
    assert (ids.dtype, ids.shape) == ("int32", ("B", "L"))
    assert (ids.min, ids.opt, ids.max) == ((1, 1), (16, 16), (32, 32))
    heads, width = config.num_key_value_heads, config.head_dim
    assert cache.shape == ("B", heads, "C", width)
    assert (cache.min, cache.max) == ((1, heads, 128, width), (32, heads, 4096, width))
    (logits,) = engine.outputs
    assert (logits.name, logits.dtype, logits.shape) == ("logits", "float32", ("B", "L", config.vocab_size))


def test_a_fixed_profile_gives_an_engine_for_each_length(bundles, tmp_path):
    profile = load_build_profile("latency").override({"capacity": {"max": 2048}})
    plan = make_plan(bundles("tiny_a") / "context.onnx", tmp_path / "out", BuildSettings(profile=profile))
    (graph,) = plan.graphs
    assert [variant.name for variant in graph.variants] == ["context-1", "context-16", "context-128"]
    specs, _ = engine_specs(graph.source, "whole", graph.variants, bake=False)
    for spec, length in zip(specs, (1, 16, 128), strict=True):
        tensors = {tensor.name: tensor for tensor in (*spec.inputs, *spec.outputs)}
        assert tensors["input_ids"].shape == (1, length)
        assert tensors["saved_xbc.0"].shape[:2] == (1, length)
        positions = tensors["logit_positions"]
        assert (positions.min, positions.max) == ((1, 1), (1, min(length, 16)))
        assert tensors["k_cache.3"].shape[2] == "C"
    assert len(engine_specs(graph.source, "cut", graph.variants[:1], bake=False)[0]) > 1


def test_baked_weights_are_inside(bundles, tmp_path):
    for bake in (False, True):
        report = build(bundles("tiny_a") / "advance.onnx", tmp_path / str(bake), bake=bake)
        manifest = EngineFolder.open(report.output).manifest
        kinds = {tensor.kind for tensor in manifest.engines["advance"].inputs}
        assert manifest.baked is bake
        assert kinds == ({"tensor"} if bake else {"tensor", "weight"})


@pytest.mark.parametrize(("role", "form"), [("step", "cut"), ("advance", "whole"), ("context", "cut")])
def test_two_builds_are_the_same_bytes(bundles, tmp_path, role, form):
    # Of several outputs the library takes the order from their addresses (ttc.exporter.engines.isolated).
    model = bundles("tiny_a") / f"{role}.onnx"
    first = build(model, tmp_path / "one", form=form, cache=False, check_reproducible=True)
    second = build(model, tmp_path / "two", form=form, cache=False)
    assert first.reproducible is True
    assert second.reproducible is None
    assert content(first.output) == content(second.output)


def test_a_build_that_is_not_reproducible_is_told(step, tmp_path, monkeypatch):
    made = iter(range(100))
    real = EngineBuilder._build

    def build_otherwise(self, job, folder, phases):
        real(self, job, folder, phases)
        (folder / "step.x").write_bytes(bytes([next(made)]))

    monkeypatch.setattr(EngineBuilder, "_build", build_otherwise)
    with pytest.raises(BackendError, match=r"step: two builds of it differ \(step\.x\)"):
        build(step, tmp_path / "out", check_reproducible=True)
    assert not (tmp_path / "out").exists()


def test_foreign_onnx_is_built_as_it_is(tmp_path):
    path = write_model(tmp_path / "own.onnx")
    with pytest.raises(InputError, match=r"sizes are missing for x \(N, 4\).*--min-shapes 'x:1x4'"):
        build(path)
    report = build(path, shapes={"N": {"min": 1, "opt": 4, "max": 8}})
    assert report.output == tmp_path / "own.engines"
    (tensor,) = EngineFolder.open(report.output).manifest.engines["own"].inputs
    assert (tensor.min, tensor.opt, tensor.max) == ((1, 4), (4, 4), (8, 4))
    with pytest.raises(InputError, match=r"not exported by ttc.*--form whole"):
        build(path, form="cut", shapes={"N": {"max": 8}})


def test_layers_are_written_when_asked_for(step, tmp_path):
    assert not (build(step, tmp_path / "one").output / "step.layers.json").exists()
    report = build(step, tmp_path / "two", layers=True)
    layers = json.loads((report.output / "step.layers.json").read_text())["Layers"]
    assert (
        len(layers)
        == report.graphs[0].layers
        == EngineFolder.open(report.output).manifest.engines["step"].layers
    )
    EngineFolder.open(report.output)


def test_the_plan_counts_memory(bundles):
    plan = make_plan(bundles("tiny_a"), None, BuildSettings(shapes={"capacity": {"max": 4096}}))
    assert not plan.problems
    with Bundle.open(bundles("tiny_a")) as bundle:
        config = bundle.config
        for graph in plan.graphs:
            names = [n for n, entry in bundle.weights.items() if graph.source.role in entry.graphs]
            assert graph.memory.weights == sum(bundle.read_weight(name).nbytes for name in names)
    cache = (
        2 * config.layers.count(LayerKind.ATTENTION) * config.num_key_value_heads * 4096 * config.head_dim * 4
    )
    denoiser = next(graph for graph in plan.graphs if graph.source.role == "denoiser")
    assert denoiser.memory.kv_cache == cache
    assert 0 < denoiser.memory.mamba_state < cache
    per_gpu, context = plan.memory_per_gpu, plan.graphs[0].memory
    both = context.weights + denoiser.memory.weights + denoiser.memory.state
    assert both < per_gpu["one"]["both towers"] < sum(per_gpu["two"].values())
    assert per_gpu["two"]["context tower"] == context.total
    assert denoiser.memory.results == 16 * config.vocab_size * 4
    assert denoiser.memory.work > 0
    assert json.loads(json.dumps(plan.to_dict()))["graphs"][0]["role"] == "context"


def test_progress_is_told(step, tmp_path):
    said = []
    build(step, tmp_path / "out", progress=lambda *line: said.append(line))
    assert said[0] == ("step", 0, 1)
    assert said[-1] == ("step", 1, 1)
    assert [line for line in said if line[0].startswith("step: ")]
