"""Triton kernels of `DiffusionPredict` and `DiffusionCommit`.

`DiffusionPredict` is one program a position, since one launch can only merge parts of a row inside one
program. A masked position's logits are read once (512 KB in the real model), those of a decided position not
at all. Every lane keeps its own maximum, sum of exponentials and best choice, which are merged once at the
end. Drawing costs some 100 instructions a vocabulary entry, greedy rows (temperature 0) skip it.

`DiffusionCommit` is one program a row of the batch.
"""

import triton
import triton.language as tl

from ttc.plugins.counter_rng import MODULUS, ROUND_CONSTANTS
from ttc.plugins.diffusion_step import DIFFUSION_COMMIT, DIFFUSION_PREDICT
from ttc.plugins.kernel_math import decode_index, order_key
from ttc.plugins.launch import KernelSpec, Tile

__all__ = ["commit", "diffusion_commit", "diffusion_predict", "predict"]

_MODULUS = tl.constexpr(MODULUS)
_ROUND_0 = tl.constexpr(ROUND_CONSTANTS[0])
_ROUND_1 = tl.constexpr(ROUND_CONSTANTS[1])
_LOWEST = tl.constexpr(-(2**63))  # below every key


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
        temperature = tl.load(temperature_ptr + row)
        hot = temperature > 0.0
        drawn = _absorb(
            _absorb(tl.load(row_key_ptr + row), tl.load(position_ptr + row).to(tl.int64) + tl.program_id(0)),
            tl.load(step_ptr + row).to(tl.int64),
        )
        highest = tl.full((BLOCK_V,), float("-inf"), tl.float32)
        weight = tl.zeros((BLOCK_V,), tl.float32)
        best = tl.full((BLOCK_V,), _LOWEST, tl.int64)
        for start in tl.range(0, V, BLOCK_V, num_stages=STAGES):  # stages by name, or nothing is prefetched
            ids = start + tl.arange(0, BLOCK_V)
            logits = tl.load(logits_ptr + at * V + ids, mask=ids < V, other=float("-inf"))
            logits = tl.where(ids == MASK_ID, float("-inf"), logits)
            higher = tl.maximum(highest, logits)
            # While a lane has met nothing but −inf the shift is 0, so that exp gives 0 and not NaN.
            shift = tl.where(higher == float("-inf"), 0.0, higher)
            weight = weight * tl.exp(highest - shift) + tl.exp(logits - shift)
            highest = higher
            choice = logits
            if hot:
                uniform = ((_absorb(drawn, ids.to(tl.int64)) >> 8).to(tl.float32) + 0.5) * (1.0 / 8388608.0)
                choice = tl.div_rn(logits, temperature + tl.zeros_like(logits)) - tl.log(-tl.log(uniform))
            best = tl.maximum(best, tl.where(ids < V, order_key(choice, ids), _LOWEST))
        predicted = decode_index(tl.max(best, 0))
        top = tl.max(highest, 0)
        shift = tl.where(top == float("-inf"), 0.0, top)
        total = tl.sum(weight * tl.exp(highest - shift), 0)
        logit = tl.load(logits_ptr + at * V + predicted)
        logit = tl.where(predicted == MASK_ID, float("-inf"), logit)
        tl.store(predicted_ptr + at, predicted)
        tl.store(confidence_ptr + at, tl.exp(logit - shift) / total)


@triton.jit
def _absorb(state, word):
    """`counter_rng.absorb` on int64 values: two rounds of x → (x + c)⁵ mod 2³¹ − 1."""
    x = _fifth_power(_modulo(state + word + _ROUND_0))
    return _fifth_power(_modulo(x + _ROUND_1))


@triton.jit
def _fifth_power(x):
    square = _modulo(x * x)
    return _modulo(_modulo(square * square) * x)


@triton.jit
def _modulo(x):
    """X mod 2³¹ − 1 for 0 ≤ x < 2⁶²: 2³¹ ≡ 1, so the two halves are added, twice."""
    x = (x & _MODULUS) + (x >> 31)
    x = (x & _MODULUS) + (x >> 31)
    return tl.where(x >= _MODULUS, x - _MODULUS, x)


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
    """The commit rule of one row of the batch, any L, BLOCK_L positions at a time."""
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
