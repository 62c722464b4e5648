"""The contents of a bundle too small to run, for tests of the format."""

from typing import Any

import ml_dtypes
import numpy as np

from ttc.formats.manifest import FileRecord, Manifest, ShardRecord, WeightMap, WeightSpec
from ttc.model.config import ModelConfig

BF16 = ml_dtypes.bfloat16
REQUIRED = ("context", "denoiser", "step")

MODEL = ModelConfig(
    pattern="-",
    hidden_size=8,
    vocab_size=16,
    layer_norm_epsilon=1e-05,
    mamba_num_heads=0,
    mamba_head_dim=0,
    n_groups=0,
    ssm_state_size=0,
    conv_kernel=0,
    num_attention_heads=0,
    num_key_value_heads=0,
    head_dim=0,
    n_routed_experts=0,
    num_experts_per_tok=0,
    moe_intermediate_size=0,
    moe_shared_expert_intermediate_size=0,
    n_group=0,
    topk_group=0,
    norm_topk_prob=False,
    routed_scaling_factor=0.0,
    intermediate_size=4,
    max_position_embeddings=64,
    bos_token_id=1,
    eos_token_ids=(2, 5),
    pad_token_id=None,
    dtype="bfloat16",
)

SMALL = Manifest(
    ttc_version="0.1.0",
    created_by={"onnx": "1.0"},
    source={"folder": "tiny"},
    model=MODEL.to_dict(),
    compute_dtype="float32",
    graphs={role: f"{role}.onnx" for role in REQUIRED},
    ops={"DiffusionStep": 1},
    weights=WeightMap(
        "reference",
        {"stack": WeightSpec("stack", ("e.0", "e.1"), True, (2, 3), "float32", ("context", "denoiser"))},
        "/models/tiny",
        {"model.safetensors": ShardRecord("a" * 64, 10, 1700000000000000001)},
    ),
    files={
        f"{role}.onnx": FileRecord("0123456789abcdef" * 4, number) for number, role in enumerate(REQUIRED)
    },
)

# Of its checkpoint, and what its graphs make of them.
WEIGHTS: dict[str, Any] = {
    "w.f32": np.arange(6, dtype=np.float32).reshape(2, 3),
    "w.bf16": np.arange(4).astype(BF16),
    "e.0": np.array([[1, 2, 3]]).astype(BF16),
    "e.1": np.array([[4, 5, 6]]).astype(BF16),
    "scalar": np.array(2.5, np.float32),
}
SPECS = {
    "w.f32": WeightSpec("w.f32", ("w.f32",), False, (2, 3), "float32", ("context",)),
    "w.bf16": WeightSpec("w.bf16", ("w.bf16",), False, (4,), "float32", ("denoiser",)),
    "stack": WeightSpec("stack", ("e.0", "e.1"), True, (2, 1, 3), "float32", ("context", "denoiser")),
    "scalar": WeightSpec("scalar", ("scalar",), False, (), "float32", ("context",)),
}
