"""The op `DiffusionStep` as pure functions over numpy arrays, for backends that sample on the host.

See docs/model.md, "Diffusion".
"""

import numpy as np
import numpy.typing as npt

from ttc.plugins import counter_rng

__all__ = ["commit", "gumbel", "predict", "uniforms"]

Floats = npt.NDArray[np.float32]
Ints = npt.NDArray[np.int32]


def uniforms(row_key: npt.NDArray[np.int64], position: Ints, step: Ints, shape: tuple[int, int]) -> Floats:
    """Return the generator's uniforms for a block's logits: (B, L, V) float32.

    Args:
        row_key: (B,) int64.
        position: (B,) int32, that of the block's first token.
        step: (B,) int32.
        shape: (L, V).
    """
    L, V = shape
    positions = position.astype(np.int64)[:, None, None] + np.arange(L, dtype=np.int64)[:, None]
    drawn = counter_rng.uniform(
        row_key[:, None, None], positions, step.astype(np.int64)[:, None, None], np.arange(V, dtype=np.int64)
    )
    result: Floats = drawn.astype(np.float32)
    return result


def gumbel(uniform: Floats) -> Floats:
    """Return Gumbel noise −log(−log u), u clamped below at 1e-10."""
    return -np.log(-np.log(np.maximum(uniform, np.float32(1e-10))))


def predict(
    logits: Floats, block_ids: Ints, temperature: Floats, uniform: Floats | None, mask_id: int
) -> tuple[Ints, Floats]:
    """Return the predicted token of every masked position and its probability at temperature 1.

    Args:
        logits: (B, L, V) float32.
        block_ids: (B, L) int32.
        temperature: (B,) float32, 0 for greedy rows.
        uniform: (B, L, V) float32 in (0, 1); may be None when all rows are greedy.
        mask_id: token id of a mask.

    Returns:
        predicted_ids: (B, L) int32, the block's own token where nothing is masked.
        confidence: (B, L) float32, +inf where nothing is masked.
    """
    masked = block_ids == mask_id
    allowed = logits.copy()
    allowed[..., mask_id] = -np.inf
    is_greedy = uniform is None or not (temperature > 0).any()
    choice = allowed
    if uniform is not None and not is_greedy:
        hot = (temperature > 0)[:, None, None]
        scaled = allowed / np.where(hot, temperature[:, None, None], np.float32(1))
        choice = np.where(hot, scaled + gumbel(uniform), allowed)
    predicted = choice.argmax(-1)
    weights = allowed
    with np.errstate(invalid="ignore"):  # NaN logits give NaN confidence, which the engine reports
        weights -= allowed.max(-1, keepdims=True)
        np.exp(weights, out=weights)
        total = weights.sum(-1)
        # Of the most probable token the weight is e⁰.
        chosen = np.float32(1) if is_greedy else np.take_along_axis(weights, predicted[..., None], -1)[..., 0]
        probability = chosen / total
    return (
        np.where(masked, predicted.astype(np.int32), block_ids),
        np.where(masked, probability, np.float32(np.inf)),
    )


def commit(
    block_ids: Ints,
    predicted_ids: Ints,
    confidence: Floats,
    threshold: Floats,
    steps_left: Ints,
    mask_id: int,
) -> tuple[Ints, Ints]:
    """Commit the most confident masked positions.

    max(#(confidence > γ), 1, ⌈masked / steps left⌉) of them, at most all; among equals the higher position
    first.

    Args:
        block_ids: (B, L) int32.
        predicted_ids: (B, L) int32.
        confidence: (B, L) float32.
        threshold: (B,) float32, γ.
        steps_left: (B,) int32, this step included.
        mask_id: token id of a mask.

    Returns:
        next_block_ids: (B, L) int32.
        masked_count: (B,) int32.
    """
    masked = block_ids == mask_id
    count = masked.sum(-1)
    committed = masked & (confidence > threshold[:, None])
    above = committed.sum(-1)
    left = np.maximum(steps_left, 1)
    least = (count + left - 1) // left
    if (above >= least).all():  # then nobody is committed for want of better ones, and ranks are no matter
        return np.where(committed, predicted_ids, block_ids), (count - above).astype(np.int32)
    quota = np.maximum(above, least)
    index = np.arange(block_ids.shape[1])
    here, there = confidence[:, :, None], confidence[:, None, :]
    ahead = (there > here) | ((there == here) & (index[None, :] > index[:, None]))
    rank = (ahead & masked[:, None, :]).sum(-1)
    committed = masked & (rank < quota[:, None])
    return np.where(committed, predicted_ids, block_ids), (count - committed.sum(-1)).astype(np.int32)
