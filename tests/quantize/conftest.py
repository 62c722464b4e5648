"""Small checkpoints to quantise, written with the safetensors library."""

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import pytest
from safetensors.numpy import save_file

from ttc.model.config import ModelConfig
from ttc.model.weights import expected_tensors

HF: dict[str, Any] = {
    "hybrid_override_pattern": "EM",
    "num_hidden_layers": 2,
    "hidden_size": 64,
    "vocab_size": 96,
    "layer_norm_epsilon": 1e-5,
    "mamba_num_heads": 4,
    "mamba_head_dim": 16,
    "n_groups": 1,
    "ssm_state_size": 8,
    "conv_kernel": 4,
    "n_routed_experts": 4,
    "num_experts_per_tok": 2,
    "moe_intermediate_size": 32,
    "moe_shared_expert_intermediate_size": 48,
    "n_group": 1,
    "topk_group": 1,
    "norm_topk_prob": True,
    "routed_scaling_factor": 2.5,
    "max_position_embeddings": 256,
    "torch_dtype": "float32",
}
Tensors = dict[str, npt.NDArray[Any]]


@pytest.fixture
def checkpoint(tmp_path: Path) -> Callable[..., tuple[Path, Tensors]]:
    """`checkpoint(dtype, change, **hf)` writes one and returns it with its tensors; `change` edits those,
    `hf` are other values for its config.json.
    """

    def write(
        dtype: Any = np.float32, change: Callable[[Tensors], object] = lambda t: None, **hf: Any
    ) -> Any:
        rng = np.random.default_rng(0)
        shapes = expected_tensors(ModelConfig.from_hf(HF | hf))
        tensors = {
            name: (0.02 * rng.standard_normal(shape, dtype=np.float32)).astype(dtype)
            for name, shape in shapes.items()
        }
        change(tensors)
        folder = tmp_path / "plain"
        folder.mkdir()
        (folder / "config.json").write_text(json.dumps(HF | hf))
        save_file(tensors, folder / "model.safetensors")
        return folder, tensors

    return write
