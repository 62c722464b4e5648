"""The diffusion step: logits and block → next block, confidences, how many positions stay masked.

Composite: `DiffusionPredict` reads the logits once per position, `DiffusionCommit` decides
over the block.
"""

from ttc.plugins.ops import OpSpec

__all__ = ["DIFFUSION_COMMIT", "DIFFUSION_PREDICT", "DIFFUSION_STEP", "OPS", "ORDER"]

DIFFUSION_PREDICT = OpSpec.make(
    __name__,
    "DiffusionPredict",
    "Predicted token of every masked position and its probability at temperature 1.",
    inputs=[
        "logits: float32 (B, L, V)",
        "block_ids: int32 (B, L)",
        "temperature: float32 (B)",
        "row_key: int64 (B)",
        "position: int32 (B)",
        "step: int32 (B)",
    ],
    outputs=["predicted_ids: int32 (B, L)", "confidence: float32 (B, L)"],
    attributes={"mask_id": "int"},
)
DIFFUSION_COMMIT = OpSpec.make(
    __name__,
    "DiffusionCommit",
    "The commit rule: which masked positions take their prediction.",
    inputs=[
        "block_ids: int32 (B, L)",
        "predicted_ids: int32 (B, L)",
        "confidence: float32 (B, L)",
        "threshold: float32 (B)",
        "steps_left: int32 (B)",
    ],
    outputs=["next_block_ids: int32 (B, L)", "masked_count: int32 (B)"],
    attributes={"mask_id": "int"},
)
DIFFUSION_STEP = OpSpec.make(
    __name__,
    "DiffusionStep",
    "One step of mask diffusion over a block.",
    inputs=[
        "logits: float32 (B, L, V)",
        "block_ids: int32 (B, L)",
        "threshold: float32 (B)",
        "temperature: float32 (B)",
        "row_key: int64 (B)",
        "position: int32 (B)",
        "step: int32 (B)",
        "steps_left: int32 (B)",
    ],
    outputs=[
        "next_block_ids: int32 (B, L)",
        "predicted_ids: int32 (B, L)",
        "confidence: float32 (B, L)",
        "masked_count: int32 (B)",
    ],
    attributes={"mask_id": "int"},
    parts=("DiffusionPredict", "DiffusionCommit"),
)
OPS = (DIFFUSION_STEP, DIFFUSION_PREDICT, DIFFUSION_COMMIT)
ORDER = 50
