"""`Checkpoint`: which folders it opens, what it maps graph weights to, and how it tells what is wrong."""

import dataclasses
import json
import re
import resource
import shutil
import struct
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import safetensors

from tests.support.real_size import REAL
from ttc.errors import CheckpointError
from ttc.exporter.onnx.chat_template import chat_template
from ttc.exporter.onnx.checkpoint import Checkpoint
from ttc.formats.manifest import WeightSpec
from ttc.model.config import ModelConfig
from ttc.model.graphs import COMPUTE
from ttc.model.weights import expected_tensors, in_dtype

GOLDEN = Path(__file__).parents[2] / "golden"
MINIATURE = Path(__file__).parents[3] / "ttc" / "miniature"
INDEX = "model.safetensors.index.json"

Write = Callable[..., Path]
Stored = dict[str, tuple[str, tuple[int, ...]]]


def tensors_of(config: dict[str, Any]) -> Stored:
    """What a BF16 checkpoint of `config` stores; the routers stay in F32."""
    expected = expected_tensors(ModelConfig.from_hf(config))
    return {name: ("F32" if ".gate." in name else "BF16", shape) for name, shape in expected.items()}


def stacked(tensors: Stored, suffix: str) -> Stored:
    """The same with the experts of each layer stacked, named with `suffix`."""
    found: Stored = {}
    for name, (dtype, shape) in tensors.items():
        whole = re.sub(r"experts\.\d+\.(\w+)\.weight", rf"experts.\1{suffix}", name)
        found[whole] = (dtype, (4, *shape)) if whole != name else (dtype, shape)
    return found


@pytest.mark.parametrize(
    ("name", "tensors", "weights"), [("tiny_a", 220, 136), ("tiny_b", 175, 135), ("tiny_c", 353, 173)]
)
def test_golden_checkpoints(name: str, tensors: int, weights: int) -> None:
    with Checkpoint.open(GOLDEN / name) as checkpoint:
        assert (len(checkpoint.tensors), len(checkpoint.weights)) == (tensors, weights)
        assert set(checkpoint.tensors) == set(expected_tensors(checkpoint.config))
        assert checkpoint.default_dtype == ("bfloat16" if name == "tiny_b" else "float32")
        assert checkpoint.tokenizer_path is None
        assert checkpoint.total_bytes == sum(checkpoint.read(tensor).nbytes for tensor in checkpoint.tensors)
        used = [tensor for source in checkpoint.weights.values() for tensor in source.tensors]
        assert sorted(used) == sorted(checkpoint.tensors)
        for path in sorted((GOLDEN / name).glob("model*.safetensors")):
            with safetensors.safe_open(path, "np") as library:
                for tensor in library.keys():  # noqa: SIM118 - not a dict
                    np.testing.assert_array_equal(checkpoint.read(tensor), library.get_tensor(tensor))


def test_weights_and_what_they_are_made_of() -> None:
    with Checkpoint.open(GOLDEN / "tiny_b") as checkpoint:
        mixer = "context_tower.layers.1.mixer"
        router, stack = f"{mixer}.gate.weight", f"{mixer}.experts.down_proj.weight"
        assert checkpoint.weights[router].dtype == checkpoint.info(router).dtype == "float32"
        assert checkpoint.weights[stack] == WeightSpec(
            stack,
            tuple(f"{mixer}.experts.{expert}.down_proj.weight" for expert in range(6)),
            stacked=True,
            shape=(6, 48, 40),
            dtype=COMPUTE,
            graphs=("context",),
        )
        head = "lm_head.weight"
        assert checkpoint.weights[head] == WeightSpec(head, (head,), False, (96, 48), COMPUTE, ("denoiser",))
        assert checkpoint.info(head).dtype == "bfloat16"
        assert in_dtype(checkpoint.weights[head], "float16").dtype == "float16"
        assert in_dtype(checkpoint.weights[router], "float16").dtype == "float32"
        with pytest.raises(CheckpointError, match="no tensor 'nothing' among its 175"):
            checkpoint.read("nothing")


def test_miniature_with_its_tokenizer() -> None:
    with Checkpoint.open(MINIATURE) as checkpoint:
        assert checkpoint.tokenizer_path == MINIATURE / "tokenizer.json"
        assert checkpoint.config.vocab_size == 384


@pytest.mark.parametrize("suffix", ["", ".weight"])
def test_stacked_experts(
    suffix: str, tmp_path: Path, small_config: dict[str, Any], sparse_checkpoint: Write
) -> None:
    tensors = tensors_of(small_config)
    single = sparse_checkpoint(tmp_path / "single", small_config, tensors)
    stack = sparse_checkpoint(tmp_path / "stack", small_config, stacked(tensors, suffix), 2)
    with Checkpoint.open(single) as first, Checkpoint.open(stack) as second:
        weight = "context_tower.layers.1.mixer.experts.up_proj.weight"
        assert second.weights[weight] == dataclasses.replace(
            first.weights[weight],
            tensors=(f"context_tower.layers.1.mixer.experts.up_proj{suffix}",),
            stacked=False,
        )
        assert list(first.weights) == list(second.weights)
        for name, source in first.weights.items():
            assert source.shape == second.weights[name].shape
        assert first.total_bytes == second.total_bytes


def test_single_and_stacked_at_once_are_unexpected(
    tmp_path: Path, small_config: dict[str, Any], sparse_checkpoint: Write
) -> None:
    tensors = tensors_of(small_config)
    folder = sparse_checkpoint(tmp_path / "both", small_config, tensors | stacked(tensors, ""))
    with pytest.raises(
        CheckpointError, match=r"16 unexpected: context_tower.layers.1.mixer.experts.0.up_proj.weight"
    ):
        Checkpoint.open(folder)


def test_all_differences_in_one_error(
    tmp_path: Path, small_config: dict[str, Any], sparse_checkpoint: Write
) -> None:
    tensors = tensors_of(small_config)
    layer = "context_tower.layers.1.mixer"
    for name in [name for name in tensors if name.startswith(f"{layer}.experts.")]:
        del tensors[name]
    tensors |= {"extra.a": ("F32", (1,)), "extra.b": ("F32", (1,))}
    tensors["lm_head.weight"] = ("BF16", (16, 9))
    tensors["t_block.1.bias"] = ("I32", (24,))
    tensors["denoiser_tower.norm_f.weight"] = ("F8_E4M3", (8,))
    tensors["denoiser_tower.layers.1.mixer.experts.2.up_proj.weight"] = ("F32", (6, 8))
    folder = sparse_checkpoint(tmp_path / "bad", small_config, tensors)
    with pytest.raises(CheckpointError) as caught:
        Checkpoint.open(folder)
    assert str(caught.value) == (
        f"{folder}: its tensors do not fit its config.json; 8 missing: {layer}.experts.0.up_proj.weight, "
        f"{layer}.experts.1.up_proj.weight, {layer}.experts.2.up_proj.weight, "
        f"{layer}.experts.3.up_proj.weight, "
        f"{layer}.experts.0.down_proj.weight, and 3 more; 2 unexpected: extra.a, extra.b; "
        "1 misshapen: lm_head.weight [16, 9] instead of [16, 8]; "
        "2 of a dtype that is not floating (or needs scales): denoiser_tower.norm_f.weight (float8_e4m3fn), "
        "t_block.1.bias (int32); "
        "1 expert stacks of mixed dtypes: denoiser_tower.layers.1.mixer.experts.up_proj.weight"
    )


def test_what_is_no_checkpoint(tmp_path: Path, small_config: dict[str, Any]) -> None:
    with pytest.raises(
        CheckpointError, match=r"none: no such folder; a checkpoint is a folder with config.json"
    ):
        Checkpoint.open(tmp_path / "none")
    with pytest.raises(CheckpointError, match=r"config.json: missing; a checkpoint is"):
        Checkpoint.open(tmp_path)
    (tmp_path / "config.json").write_text("[]")
    with pytest.raises(CheckpointError, match=r"config.json: a JSON object is due"):
        Checkpoint.open(tmp_path)
    (tmp_path / "config.json").write_text(json.dumps(small_config | {"hybrid_override_pattern": "ME*X"}))
    with pytest.raises(CheckpointError, match=r"config.json: .*unknown letter 'X' for layer 3"):
        Checkpoint.open(tmp_path)
    (tmp_path / "config.json").write_text(json.dumps(small_config))
    with pytest.raises(CheckpointError, match=r"neither model.safetensors nor model.safetensors.index.json"):
        Checkpoint.open(tmp_path)


@pytest.fixture
def sharded(tmp_path: Path, small_config: dict[str, Any], sparse_checkpoint: Write) -> Path:
    """A good checkpoint of three shards."""
    return sparse_checkpoint(tmp_path / "sharded", small_config, tensors_of(small_config), 3)


def edit_index(folder: Path, **changes: object) -> None:
    index = json.loads((folder / INDEX).read_text())
    index["weight_map"] |= changes
    (folder / INDEX).write_text(json.dumps(index))


def test_missing_shards(sharded: Path) -> None:
    (sharded / "model-00002-of-00003.safetensors").unlink()
    with pytest.raises(CheckpointError, match=r"1 of 3 shards missing: model-00002-of-00003.safetensors"):
        Checkpoint.open(sharded)


def test_truncated_shard(sharded: Path) -> None:
    path = sharded / "model-00003-of-00003.safetensors"
    path.write_bytes(path.read_bytes()[:-1])
    with pytest.raises(
        CheckpointError, match=r"model-00003-of-00003.safetensors: tensor '.*' ends at byte .* truncated"
    ):
        Checkpoint.open(sharded)
    path.write_bytes(path.read_bytes()[:40])
    with pytest.raises(
        CheckpointError, match=r"model-00003-of-00003.safetensors: its header claims .* but only 32"
    ):
        Checkpoint.open(sharded)
    path.write_bytes(struct.pack("<Q", 2**62) + path.read_bytes()[8:])
    with pytest.raises(
        CheckpointError, match=r"model-00003-of-00003.safetensors: its header claims 4611686018427387904"
    ):
        Checkpoint.open(sharded)


@pytest.mark.parametrize(
    "name",
    [
        "../other.safetensors",
        "/etc/x.safetensors",
        "sub/x.safetensors",
        "a\\b.safetensors",
        "pytorch_model.bin",
        "",
        3,
        "x\n.safetensors",
    ],
)
def test_index_names_stay_in_the_folder(name: object, sharded: Path) -> None:
    edit_index(sharded, **{"lm_head.weight": name})
    with pytest.raises(
        CheckpointError, match=r"index.json: tensor 'lm_head.weight' is said to lie in .*plain name"
    ):
        Checkpoint.open(sharded)


@pytest.mark.parametrize("text", ["{}", '{"weight_map": {}}', '{"weight_map": [1]}', "[]"])
def test_index_without_a_map(text: str, sharded: Path) -> None:
    (sharded / INDEX).write_text(text)
    with pytest.raises(CheckpointError, match=r"index.json: 'weight_map' is"):
        Checkpoint.open(sharded)


def test_index_against_the_shards(sharded: Path) -> None:
    placed = json.loads((sharded / INDEX).read_text())["weight_map"]["lm_head.weight"]
    other = next(path.name for path in sharded.glob("*.safetensors") if path.name != placed)
    edit_index(sharded, **{"lm_head.weight": other, "ghost": other})
    with pytest.raises(CheckpointError) as caught:
        Checkpoint.open(sharded)
    assert "2 not where the index says: " in str(caught.value)
    assert f"lm_head.weight (index: {other}; found in: {placed})" in str(caught.value)
    assert f"ghost (index: {other}; found in: no shard)" in str(caught.value)


def test_tensor_in_two_shards(sharded: Path, sparse_shard: Callable[..., None]) -> None:
    sparse_shard(sharded / "more.safetensors", {"lm_head.weight": ("BF16", (16, 8))})
    edit_index(sharded, ghost="more.safetensors")
    with pytest.raises(CheckpointError, match=r"'lm_head.weight' lies in two shards, .*more.safetensors"):
        Checkpoint.open(sharded)


def test_files_may_be_links_as_in_a_download_cache(sharded: Path, tmp_path: Path) -> None:
    blobs = tmp_path / "blobs"
    sharded.rename(blobs)
    sharded.mkdir()
    for number, path in enumerate(sorted(blobs.iterdir())):
        (sharded / path.name).symlink_to(path.rename(blobs / str(number)))
    with Checkpoint.open(sharded) as checkpoint:
        assert len(checkpoint.shards) == 3


def test_one_file_is_preferred_to_shards_beside_it(
    sharded: Path, small_config: dict[str, Any], sparse_checkpoint: Write, tmp_path: Path
) -> None:
    """As in transformers; what else lies there is none of ours, and an index that is wrong goes unread."""
    single = sparse_checkpoint(tmp_path / "single", small_config, tensors_of(small_config), 0)
    (single / "model.safetensors").rename(sharded / "model.safetensors")
    (sharded / INDEX).write_text("[]")
    (sharded / "original").mkdir()
    (sharded / "pytorch_model.bin").write_bytes(b"\x80")
    (sharded / ".gitattributes").write_text("*.safetensors filter=lfs\n")
    with Checkpoint.open(sharded) as checkpoint:
        assert [*checkpoint.shards] == ["model.safetensors"]


def test_default_dtype(tmp_path: Path, small_config: dict[str, Any], sparse_checkpoint: Write) -> None:
    config = small_config | {"torch_dtype": "float64"}
    folder = sparse_checkpoint(tmp_path / "x", config, tensors_of(config))
    with (
        Checkpoint.open(folder) as checkpoint,
        pytest.raises(CheckpointError, match=r"torch_dtype is 'float64'.*--dtype"),
    ):
        _ = checkpoint.default_dtype


def test_generation_config(sharded: Path) -> None:
    (sharded / "generation_config.json").write_text('{"eos_token_id": [2, 9]}')
    with Checkpoint.open(sharded) as checkpoint:
        assert checkpoint.config.eos_token_ids == (2, 9)
    (sharded / "generation_config.json").write_text('{"eos_token_id": [2, 99]}')
    with pytest.raises(CheckpointError, match="eos_token_id is 99"):
        Checkpoint.open(sharded)


def test_tokenizer_of_another_model(sharded: Path) -> None:
    shutil.copy(MINIATURE / "tokenizer.json", sharded)
    with pytest.raises(
        CheckpointError, match=r"tokenizer.json: token '.*' has the id 374, .* vocab_size is 16;"
    ):
        Checkpoint.open(sharded)


@pytest.mark.parametrize(
    "text", ["", "{}", "not json", '{"version": "1.0", "model": {"type": "Nothing"}}', "[" * 10000]
)
def test_malformed_tokenizer(text: str, sharded: Path) -> None:
    (sharded / "tokenizer.json").write_text(text)
    with pytest.raises(CheckpointError, match=r"tokenizer.json: not a tokenizer"):
        Checkpoint.open(sharded)


def test_tokenizer_that_is_no_file(sharded: Path) -> None:
    (sharded / "tokenizer.json").mkdir()
    with pytest.raises(CheckpointError, match=r"tokenizer.json: not a regular file"):
        Checkpoint.open(sharded)


def test_real_size(tmp_path: Path, small_config: dict[str, Any], sparse_checkpoint: Write) -> None:
    """118 GiB in 24 shards of holes: opened from the headers alone."""
    config = small_config | REAL
    tensors = tensors_of(config)
    assert len(tensors) == 12544
    folder = sparse_checkpoint(tmp_path / "real", config, tensors, 24)
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    with Checkpoint.open(folder) as checkpoint:
        grown = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before
        assert checkpoint.total_bytes > 117 * 2**30
        assert len(checkpoint.weights) == 860
        assert checkpoint.weights["denoiser_tower.layers.1.mixer.experts.up_proj.weight"].shape == (
            128,
            1856,
            2688,
        )
        used = [tensor for source in checkpoint.weights.values() for tensor in source.tensors]
        assert len(used) == len(set(used)) == 12544
        last = checkpoint.read("lm_head.weight")[-1]
        assert not last.any()
    assert grown < 200 * 2**10  # KiB


@pytest.mark.parametrize(
    "name", ["tokenizer.json", "generation_config.json", "hf_quant_config.json", "chat_template.jinja"]
)
def test_a_link_to_nothing_is_no_absent_file(name: str, tmp_path: Path) -> None:
    folder = shutil.copytree(GOLDEN / "tiny_a", tmp_path / "x")
    (folder / name).unlink(missing_ok=True)
    (folder / name).symlink_to(tmp_path / "none")
    read = chat_template if name == "chat_template.jinja" else Checkpoint.open
    with pytest.raises(CheckpointError, match=f"{name}: cannot be read"):
        read(folder)
