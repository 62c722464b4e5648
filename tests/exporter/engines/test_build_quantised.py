"""Graphs whose experts are stored in eight or four bits, built with TensorRT-RTX in both forms."""

import functools
import json

import pytest

from tests.support.golden import FOLDER
from tests.support.stored_experts import EIGHT_BITS, FOUR_BITS
from tests.support.stored_graphs import write_layer
from ttc.errors import InputError
from ttc.exporter.engines.build import build
from ttc.exporter.engines.build_input import read_build_input
from ttc.exporter.engines.build_settings import BuildSettings
from ttc.exporter.engines.compile import Compiler
from ttc.exporter.engines.engine_spec import CompilerOptions
from ttc.exporter.engines.lower_graph import engine_specs, partition_graph
from ttc.exporter.engines.planning import make_plan
from ttc.exporter.engines.tensorrt_api import TensorRT
from ttc.formats.program import OP

pytest.importorskip("tensorrt_rtx", reason="TensorRT-RTX is not installed")
pytestmark = pytest.mark.usefixtures("cache_folder")

OLD = ("8.0", "8.6")
# What TensorRT-RTX itself can compute with.
TARGETS = {
    "int8": (*OLD, "12.0"),
    "int4": (*OLD, "12.0"),
    "float8_e4m3fn": ("8.9", "12.0"),
    "float4_e2m1fn": ("12.0",),
}


@pytest.fixture(scope="module")
def graph(tmp_path_factory):
    """`graph(stored)` is a MoE layer of the denoiser."""
    folder = tmp_path_factory.mktemp("graphs")
    settings = json.loads((FOLDER / "tiny_a" / "config.json").read_text())
    settings |= {"hybrid_override_pattern": "E", "num_hidden_layers": 1, "moe_intermediate_size": 64}

    @functools.cache
    def written(stored):
        return write_layer(folder / f"{stored}.onnx", settings, stored, "bfloat16")

    return written


@pytest.mark.parametrize("stored", TARGETS)
def test_whole(graph, stored, tmp_path):
    plan = make_plan(graph(stored), tmp_path, BuildSettings(targets=TARGETS[stored]))
    assert plan.problems == ()
    (planned,) = plan.graphs
    (spec,), _ = engine_specs(planned.source, "whole", planned.variants, bake=False)
    backend = TensorRT.load("tensorrt-rtx")
    options = CompilerOptions("tensorrt-rtx", TARGETS[stored])
    spec.write(tmp_path)
    built = Compiler(backend, options, lambda *_: True).build(spec, tmp_path)
    names = [layer["Name"] for layer in built.layers if layer["LayerType"] == "DEQUANTIZE"]
    assert len(names) == (4 if stored == "float4_e2m1fn" else 2)
    assert all(name.startswith("layers.0.moe/Moe") for name in names), "and so tells where it is"
    weight = next(t for t in spec.inputs if t.name.endswith("experts.up_proj.weight"))
    assert (weight.dtype, weight.kind) == (stored, "weight")


@pytest.mark.parametrize("stored", ["float8_e4m3fn", "float4_e2m1fn"])
def test_older_targets_are_refused_before_anything_is_built(graph, stored, tmp_path):
    output = tmp_path / "engines"
    (problem,) = make_plan(graph(stored), output, BuildSettings(targets=(*OLD, "12.0"))).problems
    word = {"float8_e4m3fn": "float8e4m3fn", "float4_e2m1fn": "float4e2m1"}[stored]
    assert problem.startswith(f"target 8.0, 8.6: TensorRT-RTX has {word}, in which experts are stored, from")
    assert "build with --form cut" in problem
    with pytest.raises(InputError, match=r"target 8\.0, 8\.6: TensorRT-RTX has"):
        build(graph(stored), output, targets=(*OLD, "12.0"))
    assert not output.exists()


def test_cut_is_built_for_every_target(graph, tmp_path):
    """Its engines never see the experts."""
    report = build(graph("float4_e2m1fn"), tmp_path / "engines", form="cut", targets=(*OLD, "8.9", "12.0"))
    (built,) = report.graphs
    assert [name.rpartition("-")[0] for name in built.engines] == ["denoiser"] * len(built.engines)


@pytest.mark.parametrize("stored", [*EIGHT_BITS, *FOUR_BITS])
def test_programs_launch_the_ops_of_what_is_stored(graph, stored):
    (source,) = read_build_input(graph(stored)).graphs
    parts = partition_graph(source, bake=False)
    family = "Scaled" if stored in EIGHT_BITS else "Blocked"
    ops = {each.name: each for each in parts.program.instructions if each.kind == OP}
    assert [*ops] == ["MoeChoice", "MoeOrder", f"MoeUp{family}", f"MoeDown{family}", "MoeCombine"]
    up = parts.program.buffers["denoiser_tower.layers.0.mixer.experts.up_proj.weight"]
    assert (up.role, up.dtype) == ("weight", stored)
    read = [name.rpartition(".")[2] for name in ops[f"MoeUp{family}"].inputs]
    stack = ["weight", "weight_scale", "weight_scale_2"][: 2 if family == "Scaled" else 3]
    assert read[1 : 1 + len(stack)] == stack
    between = [b for b in parts.program.buffers.values() if b.role == "between"]
    assert not [b for b in between if b.dtype in (*EIGHT_BITS, *FOUR_BITS)], "codes stay where they are"


@pytest.mark.parametrize("stored", TARGETS)
def test_without_targets_the_formats_that_not_all_gpus_have_are_refused(graph, stored, tmp_path):
    """Before anything is built: nobody could say which GPUs the engine is for."""
    problems = make_plan(graph(stored), tmp_path, BuildSettings()).problems
    assert bool(problems) == stored.startswith("float")
    assert all("give --sm with" in problem for problem in problems)
