"""`DiffusionStep` in standard ONNX operators: two nested functions, one per part."""

from collections.abc import Mapping
from typing import Any

from ttc.plugins.counter_rng import MODULUS, ROUND_CONSTANTS
from ttc.plugins.onnx_text import render

__all__ = ["choosing", "diffusion_commit", "diffusion_predict", "diffusion_step"]

_PREDICT = """
DiffusionPredict <mask_id> (logits, block_ids, temperature, row_key, position, step) => (predicted_ids,
confidence) {
$choosing    predicted_64 = ArgMax <axis: int = 2, keepdims: int = 1> (choice)
    chosen = GatherElements <axis: int = 2> (allowed, predicted_64)
    logit_axis = Constant <value_ints: ints = [2]> ()
    total = ReduceLogSumExp <keepdims: int = 1> (allowed, logit_axis)
    log_probability = Sub (chosen, total)
    probability_column = Exp (log_probability)
    probability = Squeeze (probability_column, logit_axis)
    predicted_column = Cast <to: int = 6> (predicted_64)
    predicted = Squeeze (predicted_column, logit_axis)
    predicted_ids = Where (masked, predicted, block_ids)
    certain = Constant <value_float: float = inf> ()
    confidence = Where (masked, probability, certain)
}
"""

_CHOOSING = """
    mask_id_64 = Constant <value_int: int = @mask_id> ()
    mask_id_32 = Cast <to: int = 6> (mask_id_64)
    masked = Equal (block_ids, mask_id_32)
    start = Constant <value: tensor = int64 {0}> ()
    delta = Constant <value: tensor = int64 {1}> ()
    V = Shape <start: int = 2> ($logits)
    V_scalar = Squeeze (V)
    vocabulary = Range (start, V_scalar, delta)
    banned = Equal (vocabulary, mask_id_64)
    never = Constant <value_float: float = -inf> ()
    allowed = Where (banned, never, $logits)

    zero_f = Constant <value_float: float = 0.0> ()
    one_f = Constant <value_float: float = 1.0> ()
    hot_rows = Greater (temperature, zero_f)
    all_axes = Constant <value_ints: ints = [0]> ()
    hottest = ReduceMax <keepdims: int = 0> (temperature, all_axes)
    any_hot = Greater (hottest, zero_f)
    choice = If (any_hot) <
        then_branch = sampled () => (choice_sampled) {
            last_two = Constant <value_ints: ints = [1, 2]> ()
            last = Constant <value_ints: ints = [2]> ()
            L = Shape <start: int = 1, end: int = 2> ($logits)
            L_scalar = Squeeze (L)
            offsets = Range (start, L_scalar, delta)
            position_64 = Cast <to: int = 7> (position)
            axis_1 = Constant <value_ints: ints = [1]> ()
            position_column = Unsqueeze (position_64, axis_1)
            places_2d = Add (position_column, offsets)
            places = Unsqueeze (places_2d, last)
            step_64 = Cast <to: int = 7> (step)
            steps = Unsqueeze (step_64, last_two)
            keys = Unsqueeze (row_key, last_two)
            modulus = Constant <value: tensor = int64 {$modulus}> ()
            round_0 = Constant <value: tensor = int64 {$round_0}> ()
            round_1 = Constant <value: tensor = int64 {$round_1}> ()
            $absorb
            cell = Constant <value: tensor = int64 {256}> ()
            high_bits = Div (hash, cell)
            high_f = Cast <to: int = 1> (high_bits)
            half = Constant <value_float: float = 0.5> ()
            centred = Add (high_f, half)
            cells = Constant <value_float: float = 8388608.0> ()
            uniform = Div (centred, cells)
            log_u = Log (uniform)
            exponential = Neg (log_u)
            log_e = Log (exponential)
            gumbel = Neg (log_e)
            safe_rows = Where (hot_rows, temperature, one_f)
            safe = Unsqueeze (safe_rows, last_two)
            scaled = Div (allowed, safe)
            noisy = Add (scaled, gumbel)
            hot = Unsqueeze (hot_rows, last_two)
            choice_sampled = Where (hot, noisy, allowed)
        },
        else_branch = greedy () => (choice_greedy) {
            choice_greedy = Identity (allowed)
        }
    >
"""

# counter_rng.absorb: two rounds of x → (x + c)⁵ mod p.
_ABSORB = """
    ${out}_x0 = Add ($state, $word)
    ${out}_a0 = Add (${out}_x0, round_0)
    ${out}_m0 = Mod (${out}_a0, modulus)
    ${out}_s0 = Mul (${out}_m0, ${out}_m0)
    ${out}_q0 = Mod (${out}_s0, modulus)
    ${out}_f0 = Mul (${out}_q0, ${out}_q0)
    ${out}_g0 = Mod (${out}_f0, modulus)
    ${out}_p0 = Mul (${out}_g0, ${out}_m0)
    ${out}_x1 = Mod (${out}_p0, modulus)
    ${out}_a1 = Add (${out}_x1, round_1)
    ${out}_m1 = Mod (${out}_a1, modulus)
    ${out}_s1 = Mul (${out}_m1, ${out}_m1)
    ${out}_q1 = Mod (${out}_s1, modulus)
    ${out}_f1 = Mul (${out}_q1, ${out}_q1)
    ${out}_g1 = Mod (${out}_f1, modulus)
    ${out}_p1 = Mul (${out}_g1, ${out}_m1)
    $out = Mod (${out}_p1, modulus)
"""

_COMMIT = """
DiffusionCommit <mask_id> (block_ids, predicted_ids, confidence, threshold, steps_left)
    => (next_block_ids, masked_count)
{
    mask_id_64 = Constant <value_int: int = @mask_id> ()
    mask_id_32 = Cast <to: int = 6> (mask_id_64)
    masked = Equal (block_ids, mask_id_32)
    one = Constant <value: tensor = int32 {1}> ()
    axis_1 = Constant <value_ints: ints = [1]> ()
    axis_2 = Constant <value_ints: ints = [2]> ()
    masked_i = Cast <to: int = 6> (masked)
    total = ReduceSum <keepdims: int = 1> (masked_i, axis_1)
    threshold_column = Unsqueeze (threshold, axis_1)
    above_all = Greater (confidence, threshold_column)
    above_masked = And (above_all, masked)
    above_i = Cast <to: int = 6> (above_masked)
    above = ReduceSum <keepdims: int = 1> (above_i, axis_1)
    left_any = Unsqueeze (steps_left, axis_1)
    left_few = Min (left_any, total)
    left = Max (left_few, one)
    rounded = Add (total, left)
    less_one = Sub (rounded, one)
    floor = Div (less_one, left)
    quota = Max (above, floor)

    here = Unsqueeze (confidence, axis_2)
    there = Unsqueeze (confidence, axis_1)
    surer = Greater (there, here)
    as_sure = Equal (there, here)
    start = Constant <value: tensor = int32 {0}> ()
    L = Shape <start: int = 1> (block_ids)
    L_scalar = Squeeze (L)
    L_int = Cast <to: int = 6> (L_scalar)
    index = Range (start, L_int, one)
    column = Constant <value_ints: ints = [-1, 1]> ()
    index_column = Reshape (index, column)
    later = Greater (index, index_column)
    tie_won = And (as_sure, later)
    ahead_any = Or (surer, tie_won)
    masked_there = Unsqueeze (masked, axis_1)
    ahead = And (ahead_any, masked_there)
    ahead_i = Cast <to: int = 6> (ahead)
    rank = ReduceSum <keepdims: int = 0> (ahead_i, axis_2)
    in_quota = Less (rank, quota)
    committed = And (in_quota, masked)
    next_block_ids = Where (committed, predicted_ids, block_ids)
    committed_i = Cast <to: int = 6> (committed)
    still_masked = Sub (masked_i, committed_i)
    masked_count = ReduceSum <keepdims: int = 0> (still_masked, axis_1)
}
"""

_STEP = """
DiffusionStep <mask_id> (logits, block_ids, threshold, temperature, row_key, position, step, steps_left)
    => (next_block_ids, predicted_ids, confidence, masked_count)
{
    predicted_ids, confidence = ttc.DiffusionPredict <mask_id: int = @mask_id>
        (logits, block_ids, temperature, row_key, position, step)
    next_block_ids, masked_count = ttc.DiffusionCommit <mask_id: int = @mask_id>
        (block_ids, predicted_ids, confidence, threshold, steps_left)
}
"""


def diffusion_predict(values: Mapping[str, Any]) -> str:
    """Return the ONNX text of `DiffusionPredict`; the mask id is the function's attribute."""
    return render(_PREDICT, {"choosing": choosing()})


def choosing(logits: str = "logits") -> str:
    """Return the nodes that make `masked` (B, L), `allowed` and `choice` (B, L, V), beside `never`, which is
    −inf, and `zero_f`, of these logits in float32 and the other inputs of `DiffusionPredict`.
    """
    chain = (
        ("keys", "places", "at_place"),
        ("at_place", "steps", "at_step"),
        ("at_step", "vocabulary", "hash"),
    )
    absorb = "".join(
        render(_ABSORB, {"state": state, "word": word, "out": out}) for state, word, out in chain
    )
    round_0, round_1 = ROUND_CONSTANTS
    blanks = {"modulus": MODULUS, "round_0": round_0, "round_1": round_1, "absorb": absorb}
    return render(_CHOOSING, blanks | {"logits": logits})


def diffusion_commit(values: Mapping[str, Any]) -> str:
    """Return the ONNX text of `DiffusionCommit`; nothing in it depends on the model."""
    return _COMMIT


def diffusion_step(values: Mapping[str, Any]) -> str:
    """Return the ONNX text of `DiffusionStep`; nothing in it depends on the model."""
    return _STEP
