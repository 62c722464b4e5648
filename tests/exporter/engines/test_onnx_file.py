"""An ONNX file with its weights outside: every byte counts in the cache's key, and no path leads out."""

import dataclasses
import os
import tracemalloc

import onnx
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from onnx import TensorProto, helper

from tests.support.foreign_models import external, ones, save
from tests.support.foreign_weights import CASES, MATMUL, W44, X24, Y24
from ttc.errors import InputError
from ttc.exporter.engines.build_settings import BuildSettings
from ttc.exporter.engines.engine_builder import EngineBuilder
from ttc.exporter.engines.foreign_plan import ForeignPlan
from ttc.exporter.engines.network import Network, NetworkTensor
from ttc.exporter.engines.onnx_file import NETWORK_FILE, OnnxFile, tensors_of
from ttc.formats.engines import TensorRecord

OUTSIDE = (
    "external",
    "external_below",
    "external_in_branches",
    "external_in_attribute",
    "external_in_function",
    "hugging_face_cache",
)


@pytest.fixture(scope="module")
def models(tmp_path_factory):
    """Name → file whose weights lie outside."""
    return {name: CASES[name].make(tmp_path_factory.mktemp(name)) for name in OUTSIDE}


def key_of(path, options=None, **changes):
    """The key in the cache of a build of this file."""
    options = options or BuildSettings()
    tensor = TensorRecord("x", "tensor", "float32", ("n", 4), (1, 4), (2, 4), (8, 4))
    network = Network((NetworkTensor("x", "float32", ("n", 4)),), (), 1)
    file, output = OnnxFile.open(path), path.with_suffix(".engines")
    plan = ForeignPlan(file, output, options, options.targets or (), "1", network, (tensor,), None, (), ())
    plan = dataclasses.replace(plan, **changes)
    builder = EngineBuilder(options, plan.targets, plan.version, lambda *step: None, path.parent / "work")
    (job,) = plan.jobs(lambda *step: None)
    return builder.key(job)


@settings(max_examples=60)
@given(
    name=st.sampled_from(OUTSIDE), which=st.integers(0, 9), at=st.integers(0, 2**20), bit=st.integers(0, 7)
)
def test_any_other_byte_is_another_key(models, name, which, at, bit):
    path = models[name]
    before = key_of(path)
    files = [path, *OnnxFile.open(path).data_files.values()]
    file = files[which % len(files)]
    content = bytearray(file.read_bytes())
    whole = bytes(content)
    content[at % len(content)] ^= 1 << bit
    file.write_bytes(content)
    try:
        after = key_of(path)
    except InputError:
        after = None  # no longer an ONNX file, or its weights are gone: refused, which is no hit either
    finally:
        file.write_bytes(whole)
    assert after != before
    assert key_of(path) == before


def test_any_other_setting_is_another_key(models, tmp_path):
    path, plugin = models["external"], tmp_path / "plugin.py"
    plugin.write_text("x = 1")
    wider = TensorRecord("x", "tensor", "float32", ("n", 4), (1, 4), (2, 4), (9, 4))
    tensorrt = BuildSettings(backend="tensorrt", plugins=(plugin,))
    keys = [
        key_of(path),
        key_of(path, inputs=(wider,)),
        key_of(path, inputs=(dataclasses.replace(wider, kind="shape"),)),
        key_of(path, BuildSettings(tf32=True)),
        key_of(path, BuildSettings(targets=("8.9",))),
        key_of(path, version="2"),
        key_of(path, BuildSettings(backend="tensorrt")),
        key_of(path, tensorrt),
    ]
    plugin.write_text("x = 2")
    keys.append(key_of(path, tensorrt))
    assert len(set(keys)) == len(keys)


def test_weights_that_vanish_are_refused_wherever_they_are(models, tmp_path):
    for name in OUTSIDE:
        (tmp_path / name).mkdir()
        path = CASES[name].make(tmp_path / name)
        (file,) = OnnxFile.open(path).data_files.values()
        file.resolve().unlink()
        with pytest.raises(InputError, match=r"missing or shorter than the 64 bytes that tensor '\w*' needs"):
            OnnxFile.open(path)


def test_a_file_that_changes_while_it_is_built_is_refused(tmp_path):
    file = OnnxFile.open(CASES["external"].make(tmp_path))
    file.check_unchanged()
    (tmp_path / "w.bin").write_bytes(b"\1" * 64)
    with pytest.raises(InputError, match=r"w\.bin: changed while it was being built"):
        file.check_unchanged()


def test_what_is_written_is_what_was_parsed(tmp_path):
    path = CASES["external"].make(tmp_path)
    inside = save(tmp_path / "inside.onnx", [MATMUL], [X24], [Y24], [W44])
    for file, taken in ((OnnxFile.open(path), True), (OnnxFile.open(inside), False)):
        good = file.path.read_bytes()
        file.path.write_bytes(good.replace(b"MatMul", b"MutMal", 1))
        (tmp_path / file.path.stem).mkdir()
        if taken:  # it is made of what was parsed
            file.write(tmp_path / file.path.stem)
            assert b"MatMul" in (tmp_path / file.path.stem / NETWORK_FILE).read_bytes()
        else:
            with pytest.raises(InputError, match=r"inside\.onnx: changed while it was being built"):
                file.write(tmp_path / file.path.stem)


def test_tensors_are_found_wherever_one_may_stand(tmp_path):
    sparse = helper.make_sparse_tensor(
        helper.make_tensor("values", TensorProto.FLOAT, [1], [1.0]),
        helper.make_tensor("indices", TensorProto.INT64, [1], [0]),
        [4],
    )
    inner = helper.make_graph([], "inner", [], [], [W44], sparse_initializer=[sparse])
    nodes = [
        helper.make_node("If", ["c"], ["y"], then_branch=inner, else_branch=inner),
        helper.make_node("Frob", [], ["z"], many=[W44, W44], sparse_value=sparse),
    ]
    model = helper.make_model(helper.make_graph(nodes, "g", [], [], [W44]))
    names = sorted(tensor.name for tensor in tensors_of(model))
    assert names == sorted(["W"] * 5 + ["values", "indices"] * 3)


def test_what_is_written_for_the_library_names_nothing_of_the_user(models, tmp_path):
    OnnxFile.open(models["hugging_face_cache"]).write(tmp_path)
    assert sorted(path.name for path in tmp_path.iterdir()) == [NETWORK_FILE, "weights-0"]
    assert (tmp_path / "weights-0").read_bytes() == ones(4, 4).tobytes()
    written = onnx.load(tmp_path / NETWORK_FILE, load_external_data=False)
    (weight,) = written.graph.initializer
    assert {entry.key: entry.value for entry in weight.external_data}["location"] == "weights-0"


@pytest.mark.parametrize("place", ["../w.bin", "/etc/hostname", "sub/../../w.bin", "", "a\0b"])
def test_no_path_leads_out(tmp_path, place):
    (tmp_path / "inner").mkdir()
    (tmp_path / "w.bin").write_bytes(ones(4, 4).tobytes())
    path = save(tmp_path / "inner" / "m.onnx", [MATMUL], [X24], [Y24], [external("W", [4, 4], place)])
    with pytest.raises(InputError, match=r"tensor 'W' has its values in .*valid: a file in the folder"):
        OnnxFile.open(path)


@pytest.mark.parametrize(
    ("key", "value", "complaint"),
    [
        ("offset", "-1", "offset of its external data is '-1'"),
        ("length", "many", "length of its external data is 'many'"),
        ("offset", "9" * 30, "offset of its external data is"),
        ("offset", "1", "missing or shorter than the 65 bytes"),
    ],
)
def test_numbers_that_are_none(tmp_path, key, value, complaint):
    (tmp_path / "w.bin").write_bytes(ones(4, 4).tobytes())
    weight = external("W", [4, 4], "w.bin")
    for entry in weight.external_data:
        if entry.key == key:
            entry.value = value
    with pytest.raises(InputError, match=complaint):
        OnnxFile.open(save(tmp_path / "m.onnx", [MATMUL], [X24], [Y24], [weight]))


def test_git_lfs_pointers_are_called_so(tmp_path):
    pointer = "version https://git-lfs.github.com/spec/v1\noid sha256:00\nsize 1\n"
    (tmp_path / "m.onnx").write_text(pointer)
    with pytest.raises(InputError, match=r"m\.onnx: a Git LFS pointer.*git lfs pull"):
        OnnxFile.open(tmp_path / "m.onnx")
    path = CASES["external"].make(tmp_path)
    (tmp_path / "w.bin").write_text(pointer[:60])
    with pytest.raises(InputError, match=r"w\.bin: a Git LFS pointer"):
        OnnxFile.open(path)


@pytest.mark.parametrize("content", [b"", b"\0garbage" * 99, b"\x08\x0a"])
def test_what_is_no_onnx_file(tmp_path, content):
    (tmp_path / "m.onnx").write_bytes(content)
    with pytest.raises(InputError, match="not an ONNX file that can be read"):
        OnnxFile.open(tmp_path / "m.onnx")


def test_what_is_no_regular_file(tmp_path):
    os.mkfifo(tmp_path / "m.onnx")
    with pytest.raises(InputError, match="not a regular file"):
        OnnxFile.open(tmp_path / "m.onnx")


def test_weights_are_hashed_a_piece_at_a_time(tmp_path):
    """Of 256 MiB that are holes; more costs time alone."""
    n = 2**13
    with (tmp_path / "w.bin").open("wb") as file:
        file.truncate(4 * n * n)
    path = save(tmp_path / "m.onnx", [MATMUL], [X24], [Y24], [external("W", [n, n], "w.bin")])
    steps = []
    tracemalloc.start()
    OnnxFile.open(path).digest(lambda done, total: steps.append((done, total)))
    _, peak = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    assert peak < 2**26
    assert steps[-1][0] == steps[-1][1] > 2**28
    assert len(steps) > 8
