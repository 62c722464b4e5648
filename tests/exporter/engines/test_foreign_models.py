"""Files of other people: each is built or refused exactly as plain TensorRT-RTX does on this machine."""

import importlib
import math
import re
from contextlib import nullcontext
from pathlib import Path

import onnx
import pytest

from tests.support.exported_models import EXPORTED
from tests.support.foreign_models import open_sizes
from tests.support.foreign_weights import CASES
from tests.support.sample import sample
from tests.support.shared_trial import PlainWorker, shared_trial
from ttc.commands.build import parse_shapes
from ttc.errors import BackendError, InputError
from ttc.exporter.engines.build import build
from ttc.exporter.engines.build_settings import BuildSettings
from ttc.exporter.engines.engine_spec import CompilerOptions
from ttc.exporter.engines.foreign_ranges import ENDS
from ttc.exporter.engines.planning import make_plan
from ttc.formats.engines import EngineFolder

pytest.importorskip("tensorrt_rtx", reason="TensorRT-RTX is not installed")
ALL = CASES | EXPORTED
# With --full only: each much like another one.
ALIKE = {
    *("dim_by_input", "opset_6", "opset_9", "opset_13", "double", "uint8_image", "no_shape", "topk_5"),
    *("nonzero_inside", "unique", "det", "cumsum", "gru", "rnn", "uint8", "fp8_e5m2"),
    *("mobilenet_legacy", "unet_legacy", "transformer_legacy", "detector_legacy"),
}
TARGETS = ("8.9",)
# Refused by ttc itself, before the library sees them: names and paths that lead outside, files cut short.
OURS = ("external_missing", "external_short", "external_outside", "external_absolute")
WHOLE = ("output_dims", "values_decide_shapes", "external_in_branches", "hugging_face_cache")


@pytest.fixture(scope="module")
def plain():
    worker = PlainWorker()
    yield worker
    worker.close()


@pytest.fixture(scope="module", autouse=True)
def one_worker(tmp_path_factory):
    with shared_trial(CompilerOptions("tensorrt-rtx", TARGETS), tmp_path_factory.mktemp("trial")):
        yield


def settings(case):
    return BuildSettings(targets=case.targets, shapes=parse_shapes({"": case.shapes}), cache=False)


@pytest.fixture
def own_trial(request, tmp_path_factory):
    """Where a case is for other targets, a process that tries for those."""
    targets = ALL[request.getfixturevalue("name")].targets
    with (
        shared_trial(CompilerOptions("tensorrt-rtx", targets), tmp_path_factory.mktemp("own"))
        if targets != TARGETS
        else nullcontext()
    ):
        yield


@pytest.mark.parametrize("name", sample(ALL, ALL.keys() - ALIKE))
@pytest.mark.usefixtures("own_trial")
def test_built_or_refused_as_by_the_library(name, tmp_path, plain):
    case = ALL[name]
    path = case.make(tmp_path)
    told = plain.build(path, case.plain, case.targets)
    if name in OURS:
        assert told.refused
        with pytest.raises(InputError, match=r"external data beside|in the folder of the ONNX file"):
            make_plan(path, tmp_path / "out", settings(case))
        return
    plan = make_plan(path, tmp_path / "out", settings(case), try_seconds=60)
    assert bool(plan.problems) == bool(told.refused), (plan.problems, told.refused)
    if told.refused:
        reason = re.split(r"\W{2,}", told.refused.partition(": ")[2])[0][:30]
        assert reason in plan.problems[0]
        with pytest.raises((InputError, BackendError)):
            build(path, tmp_path / "out", targets=case.targets, shapes=settings(case).shapes, cache=False)
        assert not (tmp_path / "out").exists()
        return
    assert plan.tried
    assert _sizes(plan.inputs) == told.inputs
    assert _sizes(plan.outputs) == told.outputs
    for tensor in plan.inputs:
        for end in ENDS:
            expected = case.plain.get(tensor.name, tuple(told.inputs[tensor.name]))
            assert getattr(tensor, end) == expected


@pytest.mark.parametrize("name", WHOLE)
def test_the_manifest_says_what_the_network_says(name, tmp_path, plain):
    case = ALL[name]
    path = case.make(tmp_path)
    told = plain.build(path, case.plain, case.targets)
    report = build(
        path, tmp_path / "out", targets=case.targets, shapes=settings(case).shapes, cache=False, layers=True
    )
    folder = EngineFolder.open(report.output)
    (engine,) = folder.manifest.engines.values()
    assert _sizes(engine.inputs) == told.inputs
    assert _sizes(engine.outputs) == told.outputs
    assert folder.manifest.profile == {}
    assert len(folder.engine(path.stem)) == report.graphs[0].engines[path.stem] > 1000


def test_a_target_without_a_dtype_is_said_before_the_build(tmp_path):
    path = ALL["fp8"].make(tmp_path)
    plan = make_plan(path, None, BuildSettings(targets=("8.0", "8.6", "8.9")))
    assert plan.network is None
    assert plan.problems[0].startswith("target 8.0, 8.6: TensorRT-RTX has float8e4m3fn, which this file uses")


def _sizes(tensors):
    return {t.name: [-1 if isinstance(dim, str) else dim for dim in t.shape] for t in tensors}


# Of the models that ONNX tests backends with, which come with its package. All of them:
# benchmarks/onnx_backend_models.py.
STORED = (
    "pytorch-converted/test_AvgPool3d_stride",
    "pytorch-converted/test_BatchNorm3d_momentum_eval",
    "pytorch-converted/test_Conv2d_depthwise_padded",
    "pytorch-converted/test_Conv3d_groups",
    "pytorch-converted/test_MaxPool1d_stride_padding_dilation",
    "pytorch-converted/test_PReLU_1d",
    "pytorch-converted/test_PixelShuffle",
    "pytorch-converted/test_ZeroPad2d",
    "pytorch-operator/test_operator_add_broadcast",
    "pytorch-operator/test_operator_addmm",
    "pytorch-operator/test_operator_convtranspose",
    "pytorch-operator/test_operator_index",
    "pytorch-operator/test_operator_maxpool",
    "pytorch-operator/test_operator_pad",
    "pytorch-operator/test_operator_repeat",
    "pytorch-operator/test_operator_view",
    "simple/test_expand_shape_model2",
    "simple/test_sequence_model4",
    "simple/test_shrink",
    "simple/test_strnorm_model_monday_casesensintive_lower",
)
NODE = ("bitwiseand", "celu", "det", "eyelike", "if_", "isinf", "nonzero", "onehot", "shape", "tan", "tile")
PER_OPERATOR = 2


def sample(folder):
    """Give name and file of each: the stored ones, and the first of some operators."""
    data = Path(onnx.__file__).parent / "backend" / "test" / "data"
    for name in STORED:
        yield name, data / name / "model.onnx"
    made = importlib.import_module("onnx.backend.test.case.node")
    for operator in NODE:
        before = len(made._NodeTestCases)
        importlib.import_module(f"onnx.backend.test.case.node.{operator}")
        for case in made._NodeTestCases[before : before + PER_OPERATOR]:
            onnx.save(case.model, folder / f"{case.name}.onnx")
            yield case.name, folder / f"{case.name}.onnx"


def is_built(path, out, shapes):
    """Whether ttc builds it; the values that decide shapes are ones, as on the plain side."""
    sizes = {name: {"opt": shape} for name, shape in shapes.items()}
    options = BuildSettings(targets=TARGETS, shapes=sizes, cache=False)
    plan = make_plan(path, out, options, try_seconds=60)
    wanted = [] if plan.network is None else [t for t in plan.network.inputs if t.is_shape]
    ones = {t.name: (1,) * math.prod(t.shape) for t in wanted if t.name not in shapes}
    return is_built(path, out, shapes | ones) if ones else not plan.problems


@pytest.mark.filterwarnings("ignore")  # of the package's own test cases
def test_a_sample_of_onnxs_own_models(tmp_path, plain):
    found = {}
    for name, path in sample(tmp_path):
        shapes = open_sizes(path)
        told = plain.build(path, shapes, TARGETS)
        found[name] = (not told.refused, is_built(path, tmp_path / "out", shapes))
    assert len(found) == 41
    assert {name: pair for name, pair in found.items() if pair[0] != pair[1]} == {}
    assert 20 < sum(built for built, _ in found.values()) < 41
