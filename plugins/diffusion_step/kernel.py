"""Triton kernels of `DiffusionPredict` and `DiffusionCommit`.

`DiffusionPredict` is one program a position, since one launch can only merge parts of a row inside one
program; torch, which may launch two, has `ttc.plugins.split_predict`. A masked position's logits are read
once (512 KB in the real model), those of a decided position not at all.

`DiffusionCommit` is one program a row of the batch.
"""

import triton
import triton.language as tl

from ttc.plugins.commit_rule import commit_row
from ttc.plugins.diffusion_step import DIFFUSION_COMMIT, DIFFUSION_PREDICT
from ttc.plugins.kernel_math import decode_index
from ttc.plugins.launch import KernelSpec, Tile
from ttc.plugins.vocabulary_scan import draw_state, scan

__all__ = ["commit", "diffusion_commit", "diffusion_predict", "predict"]


@triton.jit(do_not_specialize=["L"])
def predict(
    logits_ptr,
    block_ids_ptr,
    temperature_ptr,
    row_key_ptr,
    position_ptr,
    step_ptr,
    L,
    predicted_ptr,
    confidence_ptr,
    V: tl.constexpr,
    MASK_ID: tl.constexpr,
    BLOCK_V: tl.constexpr,
    STAGES: tl.constexpr,
):
    """Argmax or Gumbel-max of one position's logits, and its softmax probability at temperature 1.

    Program (l, b). NaN counts as the largest logit and makes the probability NaN; so do logits that are all
    −inf, and +inf.
    """
    row = tl.program_id(1).to(tl.int64)
    at = row * L + tl.program_id(0)
    token = tl.load(block_ids_ptr + at)
    if token != MASK_ID:
        tl.store(predicted_ptr + at, token)
        tl.store(confidence_ptr + at, float("inf"))
    else:
        drawn = draw_state(
            tl.load(row_key_ptr + row),
            tl.load(position_ptr + row) + tl.program_id(0),
            tl.load(step_ptr + row),
        )
        temperature = tl.load(temperature_ptr + row)
        top, total, best = scan(logits_ptr + at * V, 0, temperature, drawn, V, V, MASK_ID, BLOCK_V, STAGES)
        predicted = decode_index(best)
        logit = tl.load(logits_ptr + at * V + predicted)
        logit = tl.where(predicted == MASK_ID, float("-inf"), logit)
        tl.store(predicted_ptr + at, predicted)
        tl.store(confidence_ptr + at, tl.exp(logit - top) / total)


@triton.jit(do_not_specialize=["L"])
def commit(
    block_ids_ptr,
    predicted_ptr,
    confidence_ptr,
    threshold_ptr,
    steps_left_ptr,
    L,
    next_ids_ptr,
    masked_count_ptr,
    MASK_ID: tl.constexpr,
    BLOCK_L: tl.constexpr,
):
    """See `commit_row`."""
    commit_row(
        block_ids_ptr,
        predicted_ptr,
        confidence_ptr,
        threshold_ptr,
        steps_left_ptr,
        L,
        next_ids_ptr,
        masked_count_ptr,
        MASK_ID,
        BLOCK_L,
    )


diffusion_predict = KernelSpec(
    op=DIFFUSION_PREDICT,
    kernel=predict,
    changing=("B", "L"),
    integers=("L",),
    tiles=(
        Tile("2048x5", {"BLOCK_V": 2048, "STAGES": 5}, num_warps=8),
        Tile("4096x3", {"BLOCK_V": 4096, "STAGES": 3}, num_warps=16),
        Tile("1024x3", {"BLOCK_V": 1024, "STAGES": 3}, num_warps=4),
    ),
    select_tile=lambda dims: 2 if dims["V"] <= 8192 else 0,
    constants=lambda problem, tile: {
        "V": problem.dims["V"],
        "MASK_ID": problem.attributes["mask_id"],
        **tile.blocks,
    },
    grid=lambda dims, constants, minimum: (dims["L"], dims["B"]),
    work_in_values=True,
)
diffusion_commit = KernelSpec(
    op=DIFFUSION_COMMIT,
    kernel=commit,
    changing=("B", "L"),
    integers=("L",),
    tiles=(
        Tile("16", {"BLOCK_L": 16}, num_warps=1),
        Tile("64", {"BLOCK_L": 64}, num_warps=4),
    ),
    select_tile=lambda dims: 0 if dims["L"] <= 16 else 1,
    constants=lambda problem, tile: {"MASK_ID": problem.attributes["mask_id"], **tile.blocks},
    grid=lambda dims, constants, minimum: (dims["B"],),
)
