"""The ops of splits in standard ONNX operators."""

from collections.abc import Mapping
from typing import Any

from ttc.plugins.diffusion_step.function import choosing
from ttc.plugins.onnx_text import render

__all__ = ["split_choice", "split_commit", "split_predict"]

_SPLITS = "highest, total, best_value, best_logit, best_id"
_PREDICT = """
SplitPredict <mask_id, X> (logits, block_ids, temperature, row_key, position, step)
    => (highest, total, best_value, best_logit, best_id)
{
    logits_f = Cast <to: int = 1> (logits)
    $choosing
    pads = Constant <value_ints: ints = [0, 0, 0, 0, 0, $padding]> ()
    split_shape = Constant <value_ints: ints = [0, 0, $X, $width]> ()
    allowed_padded = Pad (allowed, pads, never)
    choice_padded = Pad (choice, pads, never)
    pieces = Reshape (allowed_padded, split_shape)
    choices = Reshape (choice_padded, split_shape)
    last = Constant <value_ints: ints = [3]> ()

    is_nan = IsNaN (pieces)
    numbers = Where (is_nan, never, pieces)
    top = ReduceMax <keepdims: int = 1> (numbers, last)
    is_empty = Equal (top, never)
    shift = Where (is_empty, zero_f, top)
    shifted = Sub (pieces, shift)
    exponentials = Exp (shifted)
    sum = ReduceSum <keepdims: int = 0> (exponentials, last)
    best = ArgMax <axis: int = 3, keepdims: int = 1> (choices)
    value_column = GatherElements <axis: int = 3> (choices, best)
    logit_column = GatherElements <axis: int = 3> (pieces, best)
    largest = Squeeze (top, last)
    value = Squeeze (value_column, last)
    logit = Squeeze (logit_column, last)
    best_inside = Squeeze (best, last)
    first = Constant <value_ints: ints = [$first]> ()
    id_64 = Add (best_inside, first)
    id = Cast <to: int = 6> (id_64)

    third = Constant <value_ints: ints = [2]> ()
    here = Unsqueeze (masked, third)
    zero_i = Constant <value: tensor = int32 {0}> ()
    highest = Where (here, largest, zero_f)
    total = Where (here, sum, zero_f)
    best_value = Where (here, value, zero_f)
    best_logit = Where (here, logit, zero_f)
    best_id = Where (here, id, zero_i)
}
"""
_CHOICE = """
SplitChoice <mask_id> (highest, total, best_value, best_logit, best_id, block_ids)
    => (predicted_ids, confidence)
{
    mask_id_64 = Constant <value_int: int = @mask_id> ()
    mask_id_32 = Cast <to: int = 6> (mask_id_64)
    masked = Equal (block_ids, mask_id_32)
    last = Constant <value_ints: ints = [2]> ()
    best = ArgMax <axis: int = 2, keepdims: int = 1> (best_value)
    logit = GatherElements <axis: int = 2> (best_logit, best)
    id_column = GatherElements <axis: int = 2> (best_id, best)
    top = ReduceMax <keepdims: int = 1> (highest, last)
    below = Sub (highest, top)
    scale = Exp (below)
    scaled = Mul (total, scale)
    summed = ReduceSum <keepdims: int = 1> (scaled, last)
    logit_below = Sub (logit, top)
    weight = Exp (logit_below)
    probability_column = Div (weight, summed)
    probability = Squeeze (probability_column, last)
    id = Squeeze (id_column, last)
    predicted_ids = Where (masked, id, block_ids)
    certain = Constant <value_float: float = inf> ()
    confidence = Where (masked, probability, certain)
}
"""
_COMMIT = f"""
SplitCommit <mask_id> ({_SPLITS}, block_ids, threshold, steps_left)
    => (next_block_ids, predicted_ids, confidence, masked_count)
{{
    predicted_ids, confidence = ttc.SplitChoice <mask_id: int = @mask_id> ({_SPLITS}, block_ids)
    next_block_ids, masked_count = ttc.DiffusionCommit <mask_id: int = @mask_id>
        (block_ids, predicted_ids, confidence, threshold, steps_left)
}}
"""


def split_predict(values: Mapping[str, Any]) -> str:
    """Return the ONNX text of `SplitPredict` for a vocabulary of V in X splits."""
    V, X = values["V"], values["X"]
    width = -(-V // X)
    first = ", ".join(str(z * width) for z in range(X))
    blanks = {
        "choosing": choosing("logits_f"),
        "X": X,
        "width": width,
        "padding": X * width - V,
        "first": first,
    }
    return render(_PREDICT, blanks)


def split_choice(values: Mapping[str, Any]) -> str:
    """Return the ONNX text of `SplitChoice`; nothing in it depends on the model."""
    return _CHOICE


def split_commit(values: Mapping[str, Any]) -> str:
    """Return the ONNX text of `SplitCommit`; nothing in it depends on the model."""
    return _COMMIT
