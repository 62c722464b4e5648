"""`ttc inspect`: the plain data against the files themselves, and what is refused."""

import hashlib
import json
import os
import re
import shutil
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
from click.testing import CliRunner
from onnx import TensorProto, helper
from safetensors import safe_open
from safetensors.numpy import save_file

from ttc.cli import program
from ttc.errors import BundleError, CheckpointError, InputError
from ttc.formats.atomic_folder import folder_writer
from ttc.formats.engines import ENGINES, EngineRecord, EnginesManifest, TensorRecord
from ttc.formats.verification import BackendRecord, Verification
from ttc.inspection import describe
from ttc.profiles.build_profile import load_build_profile

ROOT = Path(__file__).parents[2]
TINY = ROOT / "tests" / "golden" / "tiny_a"
MINI = ROOT / "ttc" / "miniature"


@pytest.fixture(scope="session")
def mini(bundles: Callable[..., Path]) -> Path:
    return bundles("miniature", None)


def stored(*files: Path) -> dict[str, tuple[str, list[int]]]:
    """Every tensor's dtype and shape, by another reader."""
    found = {}
    for file in files:
        with safe_open(file, "np") as tensors:
            for name in tensors.keys():  # noqa: SIM118 - not a mapping
                part = tensors.get_slice(name)
                found[name] = (part.get_dtype(), part.get_shape())
    return found


def test_a_checkpoint() -> None:
    found = describe(TINY)
    tensors = stored(*TINY.glob("model-*.safetensors"))
    assert (found["kind"], found["tensors"]) == ("checkpoint", len(tensors))
    assert {shard["file"] for shard in found["shards"]} == {p.name for p in TINY.glob("model-*")}
    assert found["parameters"]["total"] == sum(int(np.prod(shape)) for _, shape in tensors.values())
    context = {name for name in tensors if name.startswith(("context_tower.", "context_lm_head."))}
    assert found["parameters"]["context_tower"] == sum(int(np.prod(tensors[name][1])) for name in context)
    pattern = json.loads((TINY / "config.json").read_text())["hybrid_override_pattern"]
    assert found["layers"]["total"] == len(pattern)
    assert found["layers"]["Mamba-2"] == pattern.count("M")
    assert found["tokenizer"] is None


def test_a_safetensors_file() -> None:
    path = MINI / "model.safetensors"
    found, tensors = describe(path), stored(path)
    assert found["kind"] == "safetensors"
    assert {t["name"]: t["shape"] for t in found["tensors"]} == {n: s for n, (_, s) in tensors.items()}
    sizes = {"BF16": 2, "F32": 4}
    assert sum(found["bytes_by_dtype"].values()) == sum(
        sizes[dtype] * int(np.prod(shape)) for dtype, shape in tensors.values()
    )


def test_a_bundle(mini: Path) -> None:
    found, checkpoint = describe(mini), describe(MINI)
    assert found["kind"] == "bundle"
    assert found["weights"]["mode"] == "packed"
    assert found["compute_dtype"] == "bfloat16"
    for key in ("model", "layers", "parameters", "tokenizer"):
        assert found[key] == checkpoint[key], key
    for role, graph in found["graphs"].items():
        raw = (mini / graph["file"]).read_bytes()
        assert graph["sha256"] == hashlib.sha256(raw).hexdigest()
        assert graph["metadata"]["ttc.role"] == role
    assert found["graphs"]["denoiser"]["ops"]["ttc::MoeRouting"] == found["layers"]["mixture of experts"]


def test_a_graph_of_a_bundle(mini: Path) -> None:
    path = mini / "context.onnx"
    found, model = describe(path), onnx.load(path)
    assert found["kind"] == "onnx"
    assert [value["name"] for value in found["inputs"]] == [value.name for value in model.graph.input]
    assert found["inputs"][0] == {"name": "input_ids", "dtype": "int32", "shape": ["B", "L"]}
    assert [value["name"] for value in found["outputs"]] == [value.name for value in model.graph.output]
    assert found["weights"]["initializers"] == len(model.graph.initializer)
    assert found["weights"]["inputs"] == 0
    assert sum(found["ops"].values()) == len(model.graph.node)
    assert found["opsets"] == {opset.domain or "ai.onnx": opset.version for opset in model.opset_import}
    assert found["functions"] == [f"{f.domain}::{f.name}" for f in model.functions]
    assert found["metadata"]["ttc.model"]["pattern"] == "MEM*EME*"


def foreign_model() -> onnx.ModelProto:
    """A graph of nobody's, with a string, a four-bit and an optional tensor."""
    weight = helper.make_tensor("w", TensorProto.FLOAT, [2, 3], np.zeros(6))
    words = helper.make_tensor("words", TensorProto.STRING, [1], [b"x"])  # type: ignore[list-item]
    nibbles = helper.make_tensor("nibbles", TensorProto.INT4, [3], [1, 2, 3])
    x = helper.make_tensor_value_info("x", TensorProto.FLOAT, None)
    y = helper.make_tensor_value_info("y", TensorProto.FLOAT, ["n", None])
    node = helper.make_node("MatMul", ["x", "w"], ["y"])
    graph = helper.make_graph([node], "g", [x], [y], [weight, words, nibbles])
    return helper.make_model(graph, opset_imports=[helper.make_opsetid("", 21)])


def test_a_foreign_onnx_file(tmp_path: Path) -> None:
    onnx.save(foreign_model(), tmp_path / "m.onnx")
    found = describe(tmp_path / "m.onnx")
    assert found["inputs"] == [{"name": "x", "dtype": "float32", "shape": None}]
    assert found["outputs"] == [{"name": "y", "dtype": "float32", "shape": ["n", None]}]
    assert found["weights"]["bytes_by_dtype"] == {"float32": 24, "int4": 1}
    assert found["ops"] == {"MatMul": 1}
    assert CliRunner().invoke(program, ["inspect", str(tmp_path / "m.onnx")]).exit_code == 0


@pytest.mark.parametrize("raw", [b"", b"this is text\n", b"\x08\x09", bytes(range(256))])
@pytest.mark.parametrize("name", ["x.onnx", "x.safetensors"])
def test_a_broken_file(tmp_path: Path, name: str, raw: bytes) -> None:
    (tmp_path / name).write_bytes(raw)
    with pytest.raises((InputError, CheckpointError), match=name):
        describe(tmp_path / name)


def test_what_cannot_be_inspected(tmp_path: Path) -> None:
    (tmp_path / "notes.txt").write_text("hello")
    (tmp_path / "folder.onnx").mkdir()
    os.mkfifo(tmp_path / "pipe.onnx")
    for path, named in {
        tmp_path: "neither bundle.json",
        tmp_path / "nowhere": "no such file or folder",
        tmp_path / ("long" * 100): "cannot be read",
        tmp_path / "notes.txt": "valid: a bundle, a checkpoint folder",
        tmp_path / "folder.onnx": "neither bundle.json",
        tmp_path / "pipe.onnx": "not a regular file",
    }.items():
        with pytest.raises(InputError, match=named):
            describe(path)
    with pytest.raises(InputError, match="--checkpoint goes with a bundle"):
        describe(TINY, tmp_path)


def test_a_bundle_or_checkpoint_that_is_damaged(mini: Path, tmp_path: Path) -> None:
    bundle = shutil.copytree(mini, tmp_path / "bundle")
    (bundle / "tokenizer.json").unlink()
    with pytest.raises(BundleError, match=r"tokenizer\.json: missing"):
        describe(bundle)
    checkpoint = tmp_path / "checkpoint"
    checkpoint.mkdir()
    shutil.copy(MINI / "config.json", checkpoint)
    save_file({"odd": np.zeros(1, np.float32)}, checkpoint / "model.safetensors")
    with pytest.raises(CheckpointError, match="1 unexpected: odd"):
        describe(checkpoint)


@pytest.mark.parametrize("what", ["bundle", "checkpoint", "safetensors", "onnx"])
def test_the_command_says_the_same_in_words(mini: Path, what: str) -> None:
    paths = {"checkpoint": MINI, "safetensors": MINI / "model.safetensors", "onnx": mini / "step.onnx"}
    path = str(paths.get(what, mini))
    words = CliRunner().invoke(program, ["inspect", path])
    assert words.exit_code == 0
    assert words.stderr == ""
    lines = words.stdout.splitlines()
    assert lines[0].split() == ["kind", what]
    assert all(line == line.rstrip() for line in lines)
    expected: dict[str, Any] = {
        "bundle": ["packed", "1,287,996 context tower", "ttc::MoeExperts ×3", "(B, 4, 32, 32)  ×3"],
        "checkpoint": ["8 in each tower: 3 Mamba-2", "220 in one file", "375 tokens"],
        "safetensors": ["2,678,008 in 220 tensors", "and 180 more"],
        "onnx": ["ttc::DiffusionStep ×1", "ttc.role", "threshold  float32 (B)"],
    }
    for part in expected[what]:
        assert part in words.stdout
    told = json.loads(CliRunner().invoke(program, ["inspect", path, "--json"]).stdout)
    assert told == json.loads(json.dumps(describe(path)))


def test_inspecting_needs_no_torch(mini: Path) -> None:
    code = "import sys; sys.modules['torch'] = None; from ttc.cli import main; main()"
    for path in (mini, MINI, mini / "context.onnx"):
        command = [sys.executable, "-c", code, "inspect", str(path)]
        done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False)
        assert (done.returncode, done.stderr) == (0, "")


def test_parameters_by_kind_and_layer(mini: Path) -> None:
    found = describe(mini)
    for total in ("context_tower", "denoiser_tower"):
        in_layers = sum(row[total] for row in found["by_layer"])
        assert 0 < in_layers < found["parameters"][total]
    assert sum(row["parameters"] for row in found["by_kind"].values()) == found["parameters"]["total"]
    assert sum(row["bytes"] for row in found["by_kind"].values()) == sum(found["bytes_by_dtype"].values())
    assert [row["kind"] for row in found["by_layer"]][:4] == [
        "Mamba-2",
        "mixture of experts",
        "Mamba-2",
        "attention",
    ]
    stored_kinds = describe(MINI)["by_kind"]
    assert {kind: row["parameters"] for kind, row in found["by_kind"].items()} == {
        kind: row["parameters"] for kind, row in stored_kinds.items()
    }


def test_engines(tmp_path: Path) -> None:
    """A set of engines as `ttc build` writes it; the engine itself is never looked into."""
    program_file = {
        "buffers": {
            "x": {"role": "input", "dtype": "float32", "shape": ["B", 4]},
            "h": {"role": "between", "dtype": "float32", "shape": ["B", 4]},
            "y": {"role": "output", "dtype": "float32", "shape": ["B", 4]},
        },
        "steps": [
            {"kind": "engine", "name": "step-00", "inputs": ["x"], "outputs": ["h"], "attributes": {}},
            {"kind": "op", "name": "DiffusionCommit", "inputs": ["h"], "outputs": ["y"], "attributes": {}},
        ],
    }
    tensor = TensorRecord("in_0", "tensor", "float32", ("B", 4), (1, 4), (1, 4), (8, 4))
    weight = TensorRecord("w", "weight", "float32", (4, 4), (4, 4), (4, 4), (4, 4))
    manifest = EnginesManifest(
        "0.1.0",
        "tensorrt-rtx",
        "1.7.1",
        "cut",
        ("8.9",),
        "float32",
        load_build_profile("h100").to_dict(),
        False,
        True,
        {"step": "a" * 64},
        {"DiffusionCommit": "b" * 64},
        {"step-00": EngineRecord("step", (tensor, weight), (tensor,), 2)},
        {"step": "step.program.json"},
    )
    with folder_writer(tmp_path / "engines", False, ENGINES) as draft:
        (draft.path / "step-00.engine").write_bytes(b"machine code")
        layers = [
            {"Name": "layers.0.mamba/MatMul", "LayerType": "MATRIX_MULTIPLY"},
            {"Name": "layers.0.mamba/Relu", "LayerType": "ACTIVATION"},
        ]
        (draft.path / "step-00.layers.json").write_text(json.dumps({"Layers": layers, "Bindings": []}))
        (draft.path / "step.program.json").write_text(json.dumps(program_file))
        folder = draft.commit(manifest)
    found = describe(folder)
    assert (found["kind"], found["targets"], found["form"]) == ("engines", ["8.9"], "cut")
    assert found["engines"]["step-00"]["weights"] == 1
    pairs = [[layer["LayerType"], layer["Name"]] for layer in layers]
    assert found["engines"]["step-00"]["layer_list"] == pairs
    assert found["programs"]["step"]["kernel_launches"] == {"DiffusionCommit": 1}
    engine = describe(folder / "step-00.engine")
    assert engine["sha256"] == hashlib.sha256(b"machine code").hexdigest()
    assert engine["inputs"][0]["max"] == [8, 4]
    assert describe(folder / "step.program.json")["buffers"] == {"input": 1, "between": 1, "output": 1}
    for words in (folder, folder / "step-00.engine", folder / "step.program.json"):
        assert CliRunner().invoke(program, ["inspect", str(words)]).exit_code == 0
    told = CliRunner().invoke(program, ["inspect", str(folder)]).stdout
    for expected in (
        "capacity 128 to 8192 (tuned for 2048)",
        "sources of 1 ttc ops",
        "no record of it as it is now",
    ):
        assert expected in told
    assert re.search(r"signature +none", told)
    (folder / "engines.json.sig").write_bytes(bytes(64))
    digest = hashlib.sha256((folder / "engines.json").read_bytes()).hexdigest()
    record = BackendRecord(True, "cuda:0", "float32", "tensorrt-rtx 1.7.1", "2026-01-01T00:00:00+00:00")
    Verification("0.1.0", digest, "c" * 64, {"tensorrt-rtx": record}).write(folder)
    plain = json.loads(CliRunner().invoke(program, ["inspect", str(folder), "--json"]).stdout)
    assert (plain["signed"], plain["profile"]["name"], list(plain["kernels"])) == (
        True,
        "h100",
        ["DiffusionCommit"],
    )
    assert plain["verification"]["tensorrt-rtx"]["passed"] is True
    told = CliRunner().invoke(program, ["inspect", str(folder)]).stdout
    assert "tensorrt-rtx passed 2026-01-01" in told
    assert re.search(r"signature +present", told)
    listed = CliRunner().invoke(program, ["inspect", str(folder), "--layers"]).stdout
    assert "layers.0.mamba/MatMul" in listed
    (folder / "step-00.engine").write_bytes(b"machine c0de")
    with pytest.raises(BundleError, match="its content is not what was built"):
        describe(folder / "step-00.engine")


@pytest.mark.parametrize("which", ["h100", "profiles/presets/h100.toml"])
def test_a_build_profile_by_name_or_path(which: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(Path(__file__).parents[2])
    found = describe(which)
    assert (found["kind"], found["profile"]) == ("profile", load_build_profile("h100").to_dict())
    told = CliRunner().invoke(program, ["inspect", which]).stdout
    for expected in ("batch 1 to 16 (tuned for 16)", "block 1 to 32 (tuned for 16)", "9.0", "any"):
        assert expected in told


def test_an_engine_by_itself_is_refused(tmp_path: Path) -> None:
    (tmp_path / "lost.engine").write_bytes(b"?")
    with pytest.raises(InputError, match="nothing is known of it"):
        describe(tmp_path / "lost.engine")


def test_the_difference_of_two_bundles(mini: Path, bundles: Callable[..., Path]) -> None:
    same = CliRunner().invoke(program, ["inspect", str(mini), "--diff", str(mini)])
    assert (same.exit_code, same.stdout) == (0, "no difference\n")
    other = bundles("tiny_b", None)
    found = CliRunner().invoke(program, ["inspect", str(mini), "--diff", str(other), "--json"])
    assert found.exit_code == 1
    report = json.loads(found.stdout)
    changed = {row["key"]: (row["first"], row["second"]) for row in report["differences"]}
    assert changed["model.vocab_size"] == (384, 96)
    assert changed["model.pattern"] == ("MEM*EME*", "*EM-ME*-M")
    assert changed["graphs.context.inputs.k_cache.0"][0] is None
    assert "compute_dtype" not in changed
    assert not [key for key in changed if "path" in key.split(".")]


def test_a_bundle_tells_its_last_verification(mini: Path, tmp_path: Path) -> None:
    copy = shutil.copytree(mini, tmp_path / "copy.bundle")
    (copy / "verification.json").unlink(missing_ok=True)
    assert describe(copy)["verification"] is None
    digest = hashlib.sha256((copy / "bundle.json").read_bytes()).hexdigest()
    record = BackendRecord(True, "cpu", "float32", "onnxruntime 1", "2026-01-01T00:00:00+00:00")
    Verification("0.1.0", digest, digest, {"onnxruntime": record}).write(copy)
    assert describe(copy)["verification"]["onnxruntime"]["passed"] is True
    assert "onnxruntime passed 2026-01-01" in CliRunner().invoke(program, ["inspect", str(copy)]).stdout


def test_quantised_checkpoints_count_weights_and_name_formats() -> None:
    quantised = ROOT / "tests" / "golden" / "quantised"
    plain = describe(TINY)
    for name in ("tiny_nvfp4", "tiny_fp8"):
        found = describe(quantised / name)
        assert found["parameters"] == plain["parameters"]
        assert sum(row["bytes"] for row in found["by_kind"].values()) <= sum(found["bytes_by_dtype"].values())
    rows = {
        (r["tower"], r["format"], r["experts"]): r["matrices"]
        for r in describe(quantised / "tiny_nvfp4")["formats"]
    }
    assert rows == {
        ("context_tower", "nvfp4", True): 32,
        ("context_tower", "plain", True): 16,
        ("denoiser_tower", "nvfp4", True): 48,
    }
    others = [r for r in describe(quantised / "tiny_fp8")["formats"] if not r["experts"]]
    assert sum(r["matrices"] for r in others) == 13
    assert plain["formats"] == []
    shown = CliRunner().invoke(program, ["inspect", str(quantised / "tiny_nvfp4")]).stdout
    assert "48 matrices of routed experts in nvfp4, denoiser tower" in shown
    assert "activations and caches stay in the compute dtype" in shown


def test_a_presets_formats_are_shown() -> None:
    shown = CliRunner().invoke(program, ["inspect", "h100"]).stdout
    assert "experts    int8, fp8, nvfp4" in shown
