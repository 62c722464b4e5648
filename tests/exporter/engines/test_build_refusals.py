"""What cannot be built is said before any work: models, settings, outputs, missing libraries."""

from pathlib import Path

import onnx
import onnx.parser
import pytest

from tests.support.build_models import MODEL, content, write_model
from ttc.base import tensorrt_package
from ttc.errors import BundleError, InputError, MissingDependencyError
from ttc.exporter.engines import build as build_module
from ttc.exporter.engines import tensorrt_api
from ttc.exporter.engines.build import build
from ttc.exporter.engines.build_settings import BuildSettings
from ttc.exporter.engines.planning import make_plan

pytest.importorskip("tensorrt_rtx", reason="TensorRT-RTX is not installed")
pytestmark = pytest.mark.usefixtures("cache_folder")


BAD_MODELS = {
    "custom": (MODEL.replace('"" : 21', '"" : 21, "acme" : 1').replace("Relu", "acme.Frob"), "Frob"),
    "ours": (MODEL.replace('"" : 21', '"" : 21, "ttc" : 1').replace("Relu", "ttc.Frob"), "Frob"),
    "op": (
        MODEL.replace("y = Relu (x)", "y = Relu (x) z = NonZero (x)").replace(
            "=> (float[N, 4] y)", "=> (float[N, 4] y, int64[2, M] z)"
        ),
        "NonZero",
    ),
    "name": (MODEL.replace("Relu", "NoSuchOp"), "NoSuchOp"),
    "dim": (MODEL.replace("N", "M"), "sizes are given for 'N', which the network has not"),
}


@pytest.mark.parametrize("kind", BAD_MODELS)
def test_what_cannot_be_built_is_said_before_it_starts(tmp_path, kind):
    text, complaint = BAD_MODELS[kind]
    path = write_model(tmp_path / "bad.onnx", text)
    shapes = {"N": {"max": 8}}
    assert any(complaint in p for p in make_plan(path, None, BuildSettings(shapes=shapes)).problems)
    with pytest.raises(InputError, match=complaint):
        build(path, shapes=shapes)
    assert sorted(p.name for p in tmp_path.iterdir()) == ["bad.onnx"]


def test_files_that_are_not_onnx(tmp_path):
    path = tmp_path / "x.onnx"
    with pytest.raises(InputError, match="no such file or folder"):
        build(path)
    path.write_bytes(b"\x00garbage" * 99)
    with pytest.raises(InputError, match="not an ONNX file"):
        build(path)
    with pytest.raises(BundleError, match="not a bundle"):
        build(tmp_path)


def with_external_data(path):
    weight = onnx.helper.make_tensor("w", onnx.TensorProto.FLOAT, [4, 4], bytes(64), raw=True)
    model = onnx.parser.parse_model(MODEL.replace("y = Relu (x)", "y = MatMul (x, w)"))
    model.graph.initializer.append(weight)
    onnx.save(model, path, save_as_external_data=True, location="x.data", size_threshold=0)
    return path


def test_external_data(tmp_path):
    path = with_external_data(tmp_path / "x.onnx")
    first = content(build(path, shapes={"N": {"max": 8}}).output)
    (tmp_path / "x.data").write_bytes(bytes(60) + b"\0\0\x80\x3f")
    assert content(build(path, shapes={"N": {"max": 8}}).output)["x.engine"] != first["x.engine"]


def test_missing_external_data(tmp_path):
    path = with_external_data(tmp_path / "x.onnx")
    (tmp_path / "x.data").unlink()
    with pytest.raises(InputError, match=r"x\.data: missing or shorter than the 64 bytes"):
        build(path, shapes={"N": {"max": 8}})


@pytest.mark.parametrize(
    ("changes", "complaint"),
    [
        ({"shapes": {"batch": {"min": 4}}}, "batch is min 4, opt 1, max 1; valid: min ≤ opt ≤ max"),
        ({"shapes": {"block": {"max": 1024}}}, "block.max is 1024; valid: 1 to 512 tokens"),
        ({"shapes": {"capacity": {"max": 9000}}}, "capacity.max is 9000, but the model has 4096 positions"),
        ({"shapes": {"bathc": {"max": 1}}}, "no dimension 'bathc'; valid: batch, block"),
        ({"profile": "h100"}, "target 9.0 .*use --backend tensorrt on a machine with that GPU"),
        ({"profile": "nobody"}, "no profile 'nobody'; valid: a100, b200, dgx-spark"),
        ({"targets": ("7.7",)}, "target '7.7' is unknown; TensorRT-RTX builds for 7.5, 8.0"),
        ({"form": "half"}, "form is 'half'; valid: whole, cut"),
        ({"backend": "onnx"}, "backend is 'onnx'; valid: tensorrt, tensorrt-rtx"),
        ({"timing_cache": "x"}, "--timing-cache is for --backend tensorrt"),
        ({"sign": "nokey.pem"}, "nokey.pem: cannot be read"),
        ({"shapes": {"batch": {"max": 10**12}}}, "batch.max is 1000000000000; valid: .* 1 to 2147483647"),
    ],
)
def test_settings_that_do_not_fit(step, tmp_path, changes, complaint):
    with pytest.raises(InputError, match=complaint):
        build(step, tmp_path / "out", **changes)
    assert not (tmp_path / "out").exists()


def test_what_does_not_fit_the_profiles_gpu_is_noted(bundles, tmp_path):
    path = tmp_path / "small.toml"
    text = (Path(build_module.__file__).parents[2] / "profiles/presets/rtx-5090.toml").read_text()
    path.write_text(
        text.replace("gpu_memory_gb = 32", "gpu_memory_gb = 1").replace("max = 8192", "max = 4096")
    )
    assert not make_plan(bundles("tiny_a"), None, BuildSettings(profile=path)).notes
    many = BuildSettings(profile=path, shapes={"batch": {"max": 4096}})
    (note,) = [n for n in make_plan(bundles("tiny_a"), None, many).notes if "both towers" in n]
    assert note.endswith("GB on one GPU, and profile small is for 1 GB")


def test_an_output_that_cannot_be_is_said_before_it_starts(step, tmp_path):
    (tmp_path / "file").touch()
    plan = make_plan(step, tmp_path / "file" / "out", BuildSettings())
    (problem,) = plan.problems
    assert f"{tmp_path / 'file'} is not a folder" in problem


def test_precision_is_a_requirement(step, tmp_path):
    own = tmp_path / "own.toml"
    text = (Path(build_module.__file__).parents[2] / "profiles/presets/latency.toml").read_text()
    own.write_text(text.replace('"any"', '"bfloat16"').replace("8192", "4096"))
    with pytest.raises(InputError, match="precision is bfloat16, but the graphs compute in float32"):
        build(step, tmp_path / "out", profile=own)
    own.write_text(text + "speed = 1\n")
    with pytest.raises(InputError, match="unknown or missing keys: speed"):
        build(step, tmp_path / "out", profile=own)


def test_bfloat16_for_a_gpu_that_has_none(bundles, tmp_path):
    with pytest.raises(InputError, match=r"target 7\.5 has no bfloat16"):
        build(bundles("miniature", None) / "step.onnx", tmp_path / "out", targets=("7.5",))


@pytest.mark.parametrize("backend", ["tensorrt", "tensorrt-rtx"])
def test_a_missing_library_says_what_to_install(step, tmp_path, monkeypatch, backend):
    monkeypatch.setattr(tensorrt_package.importlib.util, "find_spec", lambda name: None)
    with pytest.raises(MissingDependencyError, match=rf"pip install 'twotower-compiler\[{backend}\]'"):
        tensorrt_api.TensorRT.load(backend)
    with pytest.raises(InputError, match=rf"pip install 'twotower-compiler\[{backend}\]'"):
        build(step, tmp_path / "out", backend=backend)
