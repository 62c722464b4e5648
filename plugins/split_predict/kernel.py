"""Triton kernels of `SplitPredict`, `SplitChoice` and `SplitCommit`.

`SplitPredict` is a program a split and position, none of which waits for another; those of decided positions
leave at once. `SplitChoice` is one program a position, `SplitCommit` one a row of the batch: it merges the
row's positions and goes on as `DiffusionCommit`.
"""

from collections.abc import Mapping
from typing import Any

import triton
import triton.language as tl

from ttc.plugins.commit_rule import commit_row
from ttc.plugins.kernel_math import decode_index, decode_value, order_key
from ttc.plugins.launch import KernelSpec, Problem, Tile, cdiv, power_of_two
from ttc.plugins.split_predict import SPLIT_CHOICE, SPLIT_COMMIT, SPLIT_PREDICT
from ttc.plugins.vocabulary_scan import draw_state, scan

__all__ = ["choose", "commit", "predict", "split_choice", "split_commit", "split_predict"]


@triton.jit(do_not_specialize=["L"])
def predict(
    logits_ptr,
    block_ids_ptr,
    temperature_ptr,
    row_key_ptr,
    position_ptr,
    step_ptr,
    L,
    highest_ptr,
    total_ptr,
    best_value_ptr,
    best_logit_ptr,
    best_id_ptr,
    V: tl.constexpr,
    X: tl.constexpr,
    WIDTH: tl.constexpr,
    MASK_ID: tl.constexpr,
    BLOCK_V: tl.constexpr,
    STAGES: tl.constexpr,
):
    """Program (z, l, b)."""
    place = tl.program_id(1)
    row = tl.program_id(2).to(tl.int64)
    at = row * L + place
    out = at * X + tl.program_id(0)
    if tl.load(block_ids_ptr + at) != MASK_ID:
        tl.store(highest_ptr + out, 0.0)
        tl.store(total_ptr + out, 0.0)
        tl.store(best_value_ptr + out, 0.0)
        tl.store(best_logit_ptr + out, 0.0)
        tl.store(best_id_ptr + out, 0)
    else:
        drawn = draw_state(
            tl.load(row_key_ptr + row), tl.load(position_ptr + row) + place, tl.load(step_ptr + row)
        )
        temperature = tl.load(temperature_ptr + row)
        first = tl.program_id(0) * WIDTH
        highest, total, best = scan(
            logits_ptr + at * V, first, temperature, drawn, V, WIDTH, MASK_ID, BLOCK_V, STAGES
        )
        value, best_id = decode_value(best), decode_index(best)
        logit = value
        if temperature > 0.0:
            real = (best_id < V) & (best_id != MASK_ID)
            logit = tl.load(logits_ptr + at * V + best_id, mask=real, other=float("-inf")).to(tl.float32)
        tl.store(highest_ptr + out, highest)
        tl.store(total_ptr + out, total)
        tl.store(best_value_ptr + out, value)
        tl.store(best_logit_ptr + out, logit)
        tl.store(best_id_ptr + out, best_id)


@triton.jit(do_not_specialize=["L"])
def choose(
    highest_ptr,
    total_ptr,
    best_value_ptr,
    best_logit_ptr,
    best_id_ptr,
    block_ids_ptr,
    L,
    predicted_ptr,
    confidence_ptr,
    X: tl.constexpr,
    MASK_ID: tl.constexpr,
    BLOCK_X: tl.constexpr,
):
    """Program (l, b)."""
    at = tl.program_id(1).to(tl.int64) * L + tl.program_id(0) + tl.arange(0, 1)
    predicted, confidence = _merged(
        highest_ptr,
        total_ptr,
        best_value_ptr,
        best_logit_ptr,
        best_id_ptr,
        block_ids_ptr,
        at,
        at >= 0,
        X,
        MASK_ID,
        BLOCK_X,
    )
    tl.store(predicted_ptr + at, predicted)
    tl.store(confidence_ptr + at, confidence)


@triton.jit(do_not_specialize=["L"])
def commit(
    highest_ptr,
    total_ptr,
    best_value_ptr,
    best_logit_ptr,
    best_id_ptr,
    block_ids_ptr,
    threshold_ptr,
    steps_left_ptr,
    L,
    next_ids_ptr,
    predicted_ptr,
    confidence_ptr,
    masked_count_ptr,
    X: tl.constexpr,
    MASK_ID: tl.constexpr,
    BLOCK_L: tl.constexpr,
    BLOCK_X: tl.constexpr,
):
    """Program b, BLOCK_L positions at a time."""
    row = tl.program_id(0).to(tl.int64)
    for start in range(0, L, BLOCK_L):
        index = start + tl.arange(0, BLOCK_L)
        live = index < L
        predicted, confidence = _merged(
            highest_ptr,
            total_ptr,
            best_value_ptr,
            best_logit_ptr,
            best_id_ptr,
            block_ids_ptr,
            row * L + index,
            live,
            X,
            MASK_ID,
            BLOCK_X,
        )
        tl.store(predicted_ptr + row * L + index, predicted, mask=live)
        tl.store(confidence_ptr + row * L + index, confidence, mask=live)
    tl.debug_barrier()  # other threads read them than those that wrote them
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


@triton.jit
def _merged(
    highest_ptr,
    total_ptr,
    best_value_ptr,
    best_logit_ptr,
    best_id_ptr,
    block_ids_ptr,
    at,
    live,
    X: tl.constexpr,
    MASK_ID: tl.constexpr,
    BLOCK_X: tl.constexpr,
):
    """Return the predictions and confidences of some positions `at` of all, those that are live."""
    z = tl.arange(0, BLOCK_X)
    parts = at[:, None] * X + z[None, :]
    inside = live[:, None] & (z < X)[None, :]
    token = tl.load(block_ids_ptr + at, mask=live, other=MASK_ID + 1)
    highest = tl.load(highest_ptr + parts, mask=inside, other=float("-inf"))
    total = tl.load(total_ptr + parts, mask=inside, other=0.0)
    value = tl.load(best_value_ptr + parts, mask=inside, other=float("-inf"))
    logit = tl.load(best_logit_ptr + parts, mask=inside, other=0.0)
    ids = tl.load(best_id_ptr + parts, mask=inside, other=0x7FFFFFFF)
    masked = token == MASK_ID
    top = tl.max(highest, 1)
    top = tl.where(top == float("-inf"), 0.0, top)
    summed = tl.sum(total * tl.exp(highest - top[:, None]), 1)
    keys = order_key(value, ids)
    best = tl.max(keys, 1)
    logit = tl.sum(tl.where(keys == best[:, None], logit, 0.0), 1)  # ids differ, and so do keys
    probability = tl.exp(logit - top) / tl.where(masked, summed, 1.0)
    return tl.where(masked, decode_index(best), token), tl.where(masked, probability, float("inf"))


def _constants(problem: Problem, tile: Tile) -> Mapping[str, Any]:
    V, X = problem.dims["V"], problem.attributes["X"]
    width = cdiv(V, X)
    return {
        "V": V,
        "X": X,
        "WIDTH": width,
        "MASK_ID": problem.attributes["mask_id"],
        **tile.blocks,
        "BLOCK_V": min(tile.blocks["BLOCK_V"], power_of_two(width)),
    }


def _merging(problem: Problem, tile: Tile) -> Mapping[str, Any]:
    X = problem.dims["X"]
    return {
        "X": X,
        "MASK_ID": problem.attributes["mask_id"],
        **tile.blocks,
        "BLOCK_X": power_of_two(X),
    }


split_predict = KernelSpec(
    op=SPLIT_PREDICT,
    kernel=predict,
    changing=("B", "L"),
    integers=("L",),
    tiles=(
        Tile("2048x3", {"BLOCK_V": 2048, "STAGES": 3}, num_warps=8),
        Tile("1024x4", {"BLOCK_V": 1024, "STAGES": 4}, num_warps=4),
    ),
    select_tile=lambda dims: 0,
    constants=_constants,
    grid=lambda dims, constants, minimum: (constants["X"], dims["L"], dims["B"]),
    work_in_values=True,
)
split_choice = KernelSpec(
    op=SPLIT_CHOICE,
    kernel=choose,
    changing=("B", "L"),
    integers=("L",),
    tiles=(Tile("1", {}, num_warps=1),),
    select_tile=lambda dims: 0,
    constants=_merging,
    grid=lambda dims, constants, minimum: (dims["L"], dims["B"]),
)
split_commit = KernelSpec(
    op=SPLIT_COMMIT,
    kernel=commit,
    changing=("B", "L"),
    integers=("L",),
    tiles=(
        Tile("16", {"BLOCK_L": 16}, num_warps=4),
        Tile("64", {"BLOCK_L": 64}, num_warps=4),
    ),
    select_tile=lambda dims: 0 if dims["L"] <= 16 else 1,
    constants=_merging,
    grid=lambda dims, constants, minimum: (dims["B"],),
)
