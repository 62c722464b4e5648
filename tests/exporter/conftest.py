"""Checkpoints made for a test: any config, any tensors, and data that is holes."""

import json
import math
import struct
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import pytest

from tests.support.torch_tables import share_translations

Tensors = Mapping[str, tuple[str, tuple[int, ...]]]
ITEM_BYTES = {"F64": 8, "F32": 4, "I32": 4, "F16": 2, "BF16": 2, "F8_E4M3": 1}


@pytest.fixture(scope="session", autouse=True)
def exports_share_a_table() -> None:
    share_translations()


@pytest.fixture
def small_config() -> dict[str, Any]:
    """config.json of a model with every kind of layer, as small as can be."""
    return {
        "hybrid_override_pattern": "ME*-",
        "num_hidden_layers": 4,
        "hidden_size": 8,
        "vocab_size": 16,
        "layer_norm_epsilon": 1e-5,
        "mamba_num_heads": 2,
        "mamba_head_dim": 4,
        "n_groups": 1,
        "ssm_state_size": 2,
        "conv_kernel": 4,
        "num_attention_heads": 2,
        "num_key_value_heads": 1,
        "head_dim": 4,
        "n_routed_experts": 4,
        "num_experts_per_tok": 2,
        "moe_intermediate_size": 6,
        "moe_shared_expert_intermediate_size": 5,
        "n_group": 1,
        "topk_group": 1,
        "norm_topk_prob": True,
        "routed_scaling_factor": 2.5,
        "intermediate_size": 7,
        "max_position_embeddings": 64,
        "time_step_limit": [0.0, math.inf],
        "bos_token_id": 1,
        "eos_token_id": 2,
        "pad_token_id": 0,
        "torch_dtype": "bfloat16",
    }


@pytest.fixture
def sparse_shard() -> Callable[[Path, Tensors], None]:
    """`sparse_shard(path, {name: (dtype, shape)})` writes a .safetensors file whose data is one hole."""

    def write(path: Path, tensors: Tensors) -> None:
        header: dict[str, object] = {"__metadata__": {"format": "pt"}}
        at = 0
        for name, (dtype, shape) in tensors.items():
            end = at + math.prod(shape) * ITEM_BYTES[dtype]
            header[name] = {"dtype": dtype, "shape": list(shape), "data_offsets": [at, end]}
            at = end
        text = json.dumps(header).encode()
        with path.open("wb") as file:
            file.write(struct.pack("<Q", len(text)) + text)
            file.truncate(8 + len(text) + at)

    return write


@pytest.fixture
def sparse_checkpoint(
    sparse_shard: Callable[[Path, Tensors], None],
) -> Callable[[Path, Mapping[str, Any], Tensors, int], Path]:
    """`sparse_checkpoint(folder, config, tensors, shards)` writes a checkpoint; with `shards` 0 as one
    model.safetensors.
    """

    def write(folder: Path, config: Mapping[str, Any], tensors: Tensors, shards: int = 0) -> Path:
        folder.mkdir()
        (folder / "config.json").write_text(json.dumps(config))
        if not shards:
            sparse_shard(folder / "model.safetensors", tensors)
            return folder
        placed: dict[str, str] = {}
        names = sorted(tensors)
        for shard in range(shards):
            file = f"model-{shard + 1:05d}-of-{shards:05d}.safetensors"
            own = {name: tensors[name] for name in names[shard::shards]}
            sparse_shard(folder / file, own)
            placed |= dict.fromkeys(own, file)
        (folder / "model.safetensors.index.json").write_text(json.dumps({"weight_map": placed}))
        return folder

    return write


@pytest.fixture
def cache_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """An empty cache of engines."""
    monkeypatch.setenv("TTC_CACHE_DIR", str(tmp_path / "cache"))
    return tmp_path / "cache"


@pytest.fixture
def step(bundles: Callable[..., Path]) -> Path:
    """A graph that builds in half a second."""
    return bundles("tiny_a") / "step.onnx"
