"""`ttc profile` of engines: over a fake device and a fake TensorRT, and by names against NVIDIA's API."""

import json

import pytest
from click.testing import CliRunner

from tests.support.fake_device import with_loop_kernel
from tests.support.fake_engines import LAYER_MILLISECONDS, install, load_onto, write_engines
from tests.support.golden import golden
from tests.support.tensorrt_stubs import make_stubs, run_with_tensorrt
from ttc.cli import program
from ttc.errors import BackendError, BundleError, InputError
from ttc.formats.program import ENGINE, Instruction
from ttc.profiling.engine_parts import place_of
from ttc.profiling.phases import PHASES
from ttc.profiling.run import profile


@pytest.fixture(scope="module")
def folders(bundles, tmp_path_factory):
    """Form → a set of fake engines of tiny_a."""
    where = tmp_path_factory.mktemp("engines")
    return {form: write_engines(bundles("tiny_a"), where / form, form) for form in ("cut", "whole")}


@pytest.fixture
def api(monkeypatch):
    return install(monkeypatch)


@pytest.fixture
def on_host(monkeypatch, api):
    load_onto(monkeypatch, [with_loop_kernel()])
    return api


def timed(bundles, folder, **options):
    return profile(bundles("tiny_a"), "tensorrt-rtx", engines=folder, repeats=1, context=3, **options)


def test_cut_engines_layer_by_layer(bundles, folders, on_host):
    found, spans = timed(bundles, folders["cut"])
    config = golden("tiny_a").config
    assert [phase.name for phase in found.phases] == list(PHASES)
    by_name = {phase.name: phase for phase in found.phases}
    for name in ("prefill chunk", "denoise step", "extension", "AR step"):
        parts = by_name[name].parts
        layers = {part.layer: part.kind for part in parts if part.layer is not None}
        assert layers == dict(enumerate(config.pattern)), name
        scans = [part for part in parts if part.op == "ttc::MambaScan"]
        assert [part.layer for part in scans] == [0, 2, 5]
        assert all(part.calls == 1 and part.cost.flops > 0 and part.seconds > 0 for part in scans)
        assert {part.layer for part in parts if part.op == "ttc::MoeUp"} == {1, 4, 6}
    # Every time that TensorRT reported is there, once.
    reported = [span for span in spans if span.phase == "denoise step" and "node_" in span.name]
    assert all(span.micros == pytest.approx(LAYER_MILLISECONDS * 1e3) for span in reported)
    engine_time = sum(p.seconds for p in by_name["denoise step"].parts if "engine layer" in p.op)
    layers = round(engine_time / (LAYER_MILLISECONDS / 1e3))
    assert engine_time == pytest.approx(layers * LAYER_MILLISECONDS / 1e3)
    # A segment's engine layer that holds the end of one layer and the begin of the next says so.
    fused = [part for part in by_name["denoise step"].parts if part.place == "layers.0 + layers.1"]
    assert fused
    assert {(part.layer, part.kind) for part in fused} == {(None, "Mamba-2 + mixture of experts")}
    # The backend's own copies of the state.
    assert "state" in {part.place for part in by_name["extension"].parts}
    # The choice of a token, by a kernel of ours.
    assert "ttc::DiffusionPredict" in {part.op for part in by_name["AR step"].parts}
    assert found.limits == {}
    assert any("--peak-flops" in note for note in found.notes)
    assert not any("detailed verbosity" in note for note in found.notes)


def test_whole_engines_by_name_and_by_what_the_inspector_says(bundles, folders, on_host):
    found, _ = timed(bundles, folders["whole"], peak_flops=1e12, peak_bandwidth=1e12)
    denoise = next(phase for phase in found.phases if phase.name == "denoise step")
    config = golden("tiny_a").config
    assert {p.layer: p.kind for p in denoise.parts if p.layer is not None} == dict(enumerate(config.pattern))
    assert {"embedding", "time", "head"} <= {place for p in denoise.parts for place in p.place.split(" + ")}
    assert "other" not in {part.place for part in denoise.parts}
    assert found.limits == {"flops_per_second": 1e12, "bytes_per_second": 1e12}
    on_host.detailed = False
    found, _ = timed(bundles, folders["whole"])
    assert any("detailed verbosity" in note for note in found.notes)


def test_engines_that_another_ttc_cut(bundles, folders, on_host, monkeypatch):
    """Names of nodes are not taken from a program that is not the engines'."""
    from ttc.profiling import engines as module

    real = module.partition_graph

    def other(source, bake):
        made = real(source, bake)
        instructions = (*made.program.instructions, Instruction(ENGINE, "more", (), (), {}))
        return type(made)(made.segments, type(made.program)(made.program.buffers, instructions), made.nodes)

    monkeypatch.setattr(module, "partition_graph", other)
    found, _ = timed(bundles, folders["cut"])
    assert sum("cuts the graph in another way" in note for note in found.notes) == 4
    denoise = next(phase for phase in found.phases if phase.name == "denoise step")
    assert {part.place for part in denoise.parts if "engine layer" in part.op} == {"other"}
    assert {part.layer for part in denoise.parts if part.op == "ttc::MambaScan"} == {0, 2, 5}


@pytest.mark.parametrize(
    ("text", "place", "op"),
    [
        ("layers.3.attention/MatMul_linear + layers.3.attention/Add", "layers.3", "engine layer"),
        ("layers.1.moe/MoeUp_activated_2", "layers.1", "ttc::MoeUp"),
        ("layers.0.mamba/MambaScan/Mul_3", "layers.0", "ttc::MambaScan"),
        (
            "__myl_1 [ONNX Layer: layers.1.moe/MoeUp/Mul]\x1e[ONNX Layer: layers.1.moe/Add_x]",
            "layers.1",
            None,
        ),
        ("{ForeignNode[layers.0.mamba/Add_x...layers.1.moe/Pow_pow]}", "layers.0 + layers.1", "engine layer"),
        ("{ForeignNode[embedding/Gather_x...head/MatMul]} + time/Mul", "other", "engine layer over 3 places"),
        ("Reformatting CopyNode for Input Tensor 0", "other", "engine layer"),
    ],
)
def test_the_place_of_an_engine_layer(text, place, op):
    assert place_of(text) == (place, op or "ttc::MoeUp + engine layer")


def test_the_command(bundles, folders, on_host, tmp_path):
    trace, plot = tmp_path / "trace.json", tmp_path / "plot.svg"
    words = ["profile", str(bundles("tiny_a")), "--backend", "tensorrt-rtx", "--repeats", "1"]
    words += ["--context", "3", "--engines", str(folders["cut"])]
    told = CliRunner().invoke(program, [*words, "--layers", "--trace", str(trace), "--plot", str(plot)])
    assert told.exit_code == 0, told.output
    assert "tensorrt-rtx (" in told.stdout
    assert "cuda:0" in told.stdout
    assert "layers.0 + layers.1" in told.stdout
    assert "note: how near this is to the GPU's limits is not told" in told.stdout
    names = {event["name"] for event in json.loads(trace.read_text())["traceEvents"]}
    assert {"MambaScan", "denoise step"} <= names
    assert plot.read_text().startswith("<svg")


def test_what_is_refused_before_an_engine_is_touched(bundles, folders, api):
    import torch

    bundle, engines = bundles("tiny_a"), folders["cut"]
    if not torch.cuda.is_available():
        with pytest.raises(BackendError, match="needs an NVIDIA GPU"):
            profile(bundle, "tensorrt-rtx", engines=engines)
    with pytest.raises(BundleError, match=r"engines\.json: missing; .*`ttc build`"):
        profile(bundle, "tensorrt-rtx")
    with pytest.raises(InputError, match="'onnxruntime' runs no engines; leave out engines"):
        profile(bundle, engines=engines)
    with pytest.raises(InputError, match="threads is for backend 'onnxruntime'"):
        profile(bundle, "tensorrt-rtx", engines=engines, threads=2)
    with pytest.raises(InputError, match="a profile is of one device"):
        profile(bundle, "tensorrt-rtx", device="cuda:0,cuda:1", engines=engines)
    assert not api.calls


def test_a_batch_that_the_engines_do_not_hold(bundles, folders, on_host):
    with pytest.raises(InputError, match="a batch of 5; the engines were built for 1 to 4"):
        timed(bundles, folders["cut"], batch=5)


CODE = """
import json, sys
import tensorrt
from ttc.profiling.engine_profiler import layer_profiler
used = json.load(sys.stdin)
missing = [f"{kind}.{name}" for kind, names in used.items() for name in names
           if not hasattr(getattr(tensorrt, kind, None), name)]
seen = []
profiler = layer_profiler(tensorrt, lambda name, milliseconds: seen.append([name, milliseconds]))
profiler.report_layer_time("layers.0.mamba/Add_x", 0.5)
print(json.dumps({"missing": missing, "seen": seen, "is": isinstance(profiler, tensorrt.IProfiler)}))
"""
# Class → what `ttc.profiling.engine_profiler` uses of it.
USED = {
    "IExecutionContext": ["profiler", "enqueue_emits_profile"],
    "IProfiler": ["report_layer_time"],
    "ICudaEngine": ["create_engine_inspector"],
    "EngineInspector": ["get_engine_information"],
    "LayerInformationFormat": ["JSON"],
}


def test_what_is_used_of_tensorrt_exists(tmp_path):
    told = run_with_tensorrt(make_stubs(tmp_path), CODE, USED)
    assert told == {"missing": [], "seen": [["layers.0.mamba/Add_x", 0.5]], "is": True}


def test_the_same_names_in_tensorrt_rtx():
    api = pytest.importorskip("tensorrt_rtx", reason="tensorrt_rtx is not installed")
    for kind, names in USED.items():
        assert all(hasattr(getattr(api, kind), name) for name in names), kind
