"""The commit rule of one row of the batch, in Triton."""

import triton
import triton.language as tl

__all__ = ["commit_row"]


@triton.jit
def commit_row(
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
    """Decide over the row of this program: any L, BLOCK_L positions at a time."""
    row = tl.program_id(0).to(tl.int64)
    block_ids_ptr += row * L
    predicted_ptr += row * L
    confidence_ptr += row * L
    threshold = tl.load(threshold_ptr + row)
    masked_lanes = tl.zeros((BLOCK_L,), tl.int64)
    above_lanes = tl.zeros((BLOCK_L,), tl.int64)
    for start in range(0, L, BLOCK_L):
        index = start + tl.arange(0, BLOCK_L)
        masked = tl.load(block_ids_ptr + index, mask=index < L, other=MASK_ID + 1) == MASK_ID
        confidence = tl.load(confidence_ptr + index, mask=index < L, other=0.0)
        masked_lanes += masked.to(tl.int64)
        above_lanes += (masked & (confidence > threshold)).to(tl.int64)
    num_masked = tl.sum(masked_lanes, 0)
    left = tl.maximum(tl.load(steps_left_ptr + row).to(tl.int64), 1)
    quota = tl.maximum(tl.sum(above_lanes, 0), (num_masked + left - 1) // left)

    committed_lanes = tl.zeros((BLOCK_L,), tl.int64)
    for start in range(0, L, BLOCK_L):
        index = start + tl.arange(0, BLOCK_L)
        token = tl.load(block_ids_ptr + index, mask=index < L, other=MASK_ID + 1)
        here = tl.load(confidence_ptr + index, mask=index < L, other=0.0)
        rank = tl.zeros((BLOCK_L,), tl.int32)
        for other_start in range(0, L, BLOCK_L):
            other = other_start + tl.arange(0, BLOCK_L)
            rival = tl.load(block_ids_ptr + other, mask=other < L, other=MASK_ID + 1) == MASK_ID
            there = tl.load(confidence_ptr + other, mask=other < L, other=0.0)
            tie_won = (there[None, :] == here[:, None]) & (other[None, :] > index[:, None])
            ahead = (there[None, :] > here[:, None]) | tie_won
            rank += tl.sum((ahead & rival[None, :]).to(tl.int32), 1)
        committed = (token == MASK_ID) & (rank < quota)
        predicted = tl.load(predicted_ptr + index, mask=index < L, other=0)
        tl.store(next_ids_ptr + row * L + index, tl.where(committed, predicted, token), mask=index < L)
        committed_lanes += committed.to(tl.int64)
    tl.store(masked_count_ptr + row, (num_masked - tl.sum(committed_lanes, 0)).to(tl.int32))
