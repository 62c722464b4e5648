"""`ttc profile`: parts, totals, trace, picture. No test asks how long anything takes."""

import json
import xml.etree.ElementTree as ET

import pytest
from click.testing import CliRunner

from tests.support.golden import golden
from ttc.cli import program
from ttc.errors import InputError
from ttc.plugins.costs import Cost
from ttc.profiling.costs import node_cost
from ttc.profiling.phases import PHASES
from ttc.profiling.plot import svg
from ttc.profiling.report import Part, PhaseProfile, Profile, totals
from ttc.profiling.run import profile
from ttc.profiling.trace import trace_events

LIMITS = {"peak_flops": 1e9, "peak_bandwidth": 1e9}


@pytest.fixture(scope="module")
def by_onnxruntime(bundles):
    return profile(bundles("tiny_a"), repeats=2, context=3, **LIMITS)


@pytest.fixture(scope="module")
def by_torch(bundles):
    return profile(bundles("tiny_a"), "torch", repeats=2, context=3, **LIMITS)


@pytest.mark.parametrize("which", ["by_onnxruntime", "by_torch"])
def test_every_layer_of_every_phase_is_timed(which, request):
    found, _ = request.getfixturevalue(which)
    pattern = golden("tiny_a").config.pattern
    assert [phase.name for phase in found.phases] == list(PHASES)
    for phase in found.phases:
        kinds = {part.layer: part.kind for part in phase.parts if part.layer is not None}
        assert kinds == ({} if phase.name == "diffusion step" else dict(enumerate(pattern)))
        assert 0 < sum(part.seconds for part in phase.parts) <= phase.seconds * 1.001
        assert all(part.kernel <= part.seconds for part in phase.parts)
    assert [loop.mode for loop in found.loops] == ["diffusion", "ar"]
    assert all(0 < loop.backend_seconds < loop.seconds for loop in found.loops)
    assert found.limits == {"flops_per_second": 1e9, "bytes_per_second": 1e9}


def test_the_ttc_ops_are_told_apart(by_onnxruntime, by_torch):
    """ONNX Runtime runs the bodies of the primitive ops, torch the ops as the towers call them."""
    for (found, _), expected in (
        (by_onnxruntime, {"ttc::MambaConv", "ttc::MambaScan", "ttc::MoeChoice", "ttc::MoeUp"}),
        (by_torch, {"ttc::MambaBlockScan", "ttc::MoeRouting", "ttc::MoeExperts"}),
    ):
        denoise = next(phase for phase in found.phases if phase.name == "denoise step")
        ops = {part.op: part for part in denoise.parts}
        assert expected <= ops.keys()
        assert all(ops[name].cost.flops > 0 and ops[name].cost.bytes > 0 for name in expected)
        scans = [part for part in denoise.parts if "Mamba" in part.op and "Scan" in part.op]
        assert {part.layer for part in scans} == {0, 2, 5}


def test_totals_add_up():
    parts = [
        Part("layers.0", 0, "M", "a", 2.0, 1.0, 1, Cost(10, 0)),
        Part("layers.1", 1, "E", "a", 1.0, 1.0, 2, Cost(0, 30)),
        Part("layers.1", 1, "E", "b", 4.0, 3.0, 1, Cost(0, 0)),
    ]
    limits = {"flops_per_second": 100.0, "bytes_per_second": 100.0}
    b, a = totals(parts, lambda part: part.op, limits)
    assert (b.name, b.seconds, b.share, b.of_limit) == ("b", 4.0, 0.6, None)
    assert (a.seconds, a.kernel, a.calls, a.flops, a.bytes) == (3.0, 2.0, 3, 10, 30)
    assert a.of_limit == pytest.approx(0.3 / 2.0)


def test_the_most_expensive_op_is_the_one_with_the_most_time():
    """Not the one with the largest share: the step's op is alone in its phase, and short."""
    scans = [Part(f"layers.{i}", i, "M", "scan", 0.004, 0.003, 1, Cost(0, 0)) for i in range(2)]
    phases = {
        "denoise step": (Part("head", None, "head", "product", 0.005, 0.004, 1, Cost(0, 0)), *scans),
        "diffusion step": (Part("step", None, "step", "commit", 0.002, 0.002, 1, Cost(0, 0)),),
    }
    timed = tuple(PhaseProfile(name, 4, 0.02, 0.02, 0.02, 0.02, parts) for name, parts in phases.items())
    limits = {"flops_per_second": 1.0, "bytes_per_second": 1.0}
    found = Profile("a.bundle", "torch", "cpu", "1", 1, 3, 2, limits, timed, (), ())
    most = found.most_expensive
    assert (most.phase, most.total.name) == ("denoise step", "scan")
    assert most.total.kernel == pytest.approx(0.006)
    assert most.total.share == pytest.approx(0.6)
    assert most.share_of_all == pytest.approx(0.5)
    assert str(most) == (
        "most expensive: scan, 6.000 ms in one call of the denoise step "
        "(60% of its kernels, 50% of all phases' kernels)"
    )
    told = found.to_dict()["most_expensive"]
    assert (told["phase"], told["name"], told["share_of_all"]) == ("denoise step", "scan", most.share_of_all)


def test_costs_of_nodes():
    product = node_cost("FusedMatMul", [{"float": [2, 3, 5]}, {"float": [5, 7]}], [{"float": [2, 3, 7]}])
    assert product == Cost(2 * 2 * 3 * 5 * 7, 4 * (2 * 3 * 5 + 5 * 7 + 2 * 3 * 7))
    assert node_cost("Mul", [{"float16": [4]}, {"float16": [4]}], [{"float16": [4]}]) == Cost(4, 24)
    assert node_cost("Reshape", [{"float": [4]}], [{"float": [2, 2]}]) == Cost(0, 0)


def test_the_trace_is_what_its_readers_take(by_onnxruntime):
    """The rules of the Trace Event Format for complete and metadata events."""
    _, spans = by_onnxruntime
    trace = json.loads(json.dumps(trace_events(spans), allow_nan=False))
    names = {e["pid"]: e["args"]["name"] for e in trace["traceEvents"] if e["ph"] == "M"}
    assert list(names.values()) == list(PHASES)
    bars = [event for event in trace["traceEvents"] if event["ph"] == "X"]
    assert len(bars) > 500
    for event in bars:
        assert event["pid"] in names
        assert isinstance(event["tid"], int)
        assert isinstance(event["name"], str)
        assert event["ts"] >= 0
        assert event["dur"] >= 0
    for pid in names:
        whole, *nodes = [event for event in bars if event["pid"] == pid]
        assert whole["cat"] == "backend call"
        assert all(event["ts"] + event["dur"] <= whole["dur"] * 1.01 + 50 for event in nodes)


def test_the_picture_is_xml_with_a_bar_for_every_phase(by_onnxruntime):
    found, _ = by_onnxruntime
    picture = ET.fromstring(svg(found))
    texts = {element.text for element in picture.iter() if element.tag.endswith("text")}
    assert set(PHASES) <= texts
    assert {"Mamba-2", "attention", "mixture of experts"} <= texts


def test_the_command(bundles, tmp_path):
    words = ["profile", str(bundles("tiny_a")), "--repeats", "1", "--context", "3"]
    trace, plot = tmp_path / "trace.json", tmp_path / "plot.svg"
    told = CliRunner().invoke(program, [*words, "--trace", str(trace), "--plot", str(plot), "--layers"])
    assert told.exit_code == 0, told.output
    assert "most expensive: " in told.stdout
    assert "layers.3 (attention)" in told.stdout
    assert json.loads(trace.read_text())["traceEvents"]
    assert plot.read_text().startswith("<svg")
    report = json.loads(CliRunner().invoke(program, [*words, "--json"]).stdout)
    longest = max(op["kernel"] for phase in report["phases"] for op in phase["by_op"])
    assert report["most_expensive"]["kernel"] == longest
    assert {row["name"] for row in report["phases"][1]["by_kind"]} >= {"Mamba-2", "attention"}


@pytest.mark.parametrize(
    ("words", "complaint"),
    [
        (["--trace", "no/such/trace.json"], "its folder does not exist"),
        (["--trace", "trace.txt"], "ends in .json"),
        (["--plot", "no/such/plot.svg"], "its folder does not exist"),
        (["--plot", "plot.png"], "ends in .svg"),
    ],
)
def test_targets_are_checked_before_anything_is_timed(words, complaint, bundles, monkeypatch):
    monkeypatch.setattr("ttc.profiling.run.profile", lambda *_, **__: pytest.fail("something was timed"))
    refused = CliRunner().invoke(program, ["profile", str(bundles("tiny_a")), *words])
    assert refused.exit_code == 1, refused.output
    assert complaint in refused.stderr


@pytest.mark.parametrize(
    ("options", "complaint"),
    [
        ({"backend": "tvm"}, "tells no times of layers; valid: onnxruntime, torch, tensorrt, tensorrt-rtx"),
        ({"repeats": 0}, "repeats is 0"),
        ({"context": 10**6}, "the model holds"),
        ({"peak_flops": -1.0}, "flops_per_second is -1"),
    ],
)
def test_options_are_checked(bundles, options, complaint):
    with pytest.raises(InputError, match=complaint):
        profile(bundles("tiny_a"), **options)
