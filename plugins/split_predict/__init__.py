"""The diffusion step with the vocabulary in splits: what `DiffusionStep` gives, in two launches that fill a
GPU.

`SplitPredict` reads the logits, as the head's product gives them, with a program for every split of every
position; `SplitCommit` merges the splits and decides over the block. AR, which decides nothing, merges with
`SplitChoice`. Split z holds the ids z·W … z·W + W − 1 below V, W = ⌈V / X⌉.

The torch backend on a GPU runs them. Engines have `DiffusionStep`, whose reading is one program a position.
"""

from ttc.plugins.ops import OpSpec

__all__ = ["OPS", "ORDER", "SPLIT_CHOICE", "SPLIT_COMMIT", "SPLIT_PREDICT", "splits"]

# Of every split: its largest logit, Σ exp(logit − that); the value that chooses (the logit, at a temperature
# above 0 logit / temperature + noise) of its best id, that id's logit, and the id.
_SPLITS = [
    "highest: float32 (B, L, X)",
    "total: float32 (B, L, X)",
    "best_value: float32 (B, L, X)",
    "best_logit: float32 (B, L, X)",
    "best_id: int32 (B, L, X)",
]
_BLOCK = "block_ids: int32 (B, L)"
_CHOICE = ["predicted_ids: int32 (B, L)", "confidence: float32 (B, L)"]

SPLIT_PREDICT = OpSpec.make(
    __name__,
    "SplitPredict",
    "Of every split of the vocabulary, at every masked position: best token and sum of the exponentials.",
    inputs=[
        "logits: compute (B, L, V)",
        _BLOCK,
        "temperature: float32 (B)",
        "row_key: int64 (B)",
        "position: int32 (B)",
        "step: int32 (B)",
    ],
    outputs=_SPLITS,
    attributes={"mask_id": "int", "X": "int"},
    glue=True,
)
SPLIT_CHOICE = OpSpec.make(
    __name__,
    "SplitChoice",
    "Predicted token of every masked position and its probability at temperature 1, from splits.",
    inputs=[*_SPLITS, _BLOCK],
    outputs=_CHOICE,
    attributes={"mask_id": "int"},
    glue=True,
)
SPLIT_COMMIT = OpSpec.make(
    __name__,
    "SplitCommit",
    "Prediction from splits, and the commit rule.",
    inputs=[*_SPLITS, _BLOCK, "threshold: float32 (B)", "steps_left: int32 (B)"],
    outputs=["next_block_ids: int32 (B, L)", *_CHOICE, "masked_count: int32 (B)"],
    attributes={"mask_id": "int"},
    parts=("SplitChoice", "DiffusionCommit"),
    glue=True,
    fused=True,
)
OPS = (SPLIT_PREDICT, SPLIT_CHOICE, SPLIT_COMMIT)
ORDER = 51

_FEW, _MOST_OF_FEW, _MOST = 8, 64, 16
_LEAST_WIDTH = 2048  # ids that one program reads at a time


def splits(positions: int, V: int) -> int:
    """Return into how many splits a vocabulary of V should go: many where few positions fill no GPU."""
    return min(_MOST_OF_FEW if positions <= _FEW else _MOST, -(-V // _LEAST_WIDTH))
