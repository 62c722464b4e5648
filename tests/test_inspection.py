"""`ttc inspect`: the plain data against the files themselves, and what is refused."""

import hashlib
import json
import os
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
from ttc.inspection import describe

ROOT = Path(__file__).parents[1]
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
        "checkpoint": ["8 in each tower: 3 Mamba-2", "220 in one file", "374 tokens"],
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
