"""The meaning of `DiffusionStep` and its two parts in torch; see docs/model.md, "Diffusion"."""

import torch
from torch import Tensor

from ttc.plugins import counter_rng

__all__ = ["allowed_and_choice", "diffusion_commit", "diffusion_predict", "diffusion_step"]


def diffusion_step(
    logits: Tensor,
    block_ids: Tensor,
    threshold: Tensor,
    temperature: Tensor,
    row_key: Tensor,
    position: Tensor,
    step: Tensor,
    steps_left: Tensor,
    *,
    mask_id: int,
) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """Predict every masked position and commit the most confident ones.

    Args:
        logits: (B, L, V) float32.
        block_ids: (B, L) int32, mask_id where undecided.
        threshold: (B,) float32, γ.
        temperature: (B,) float32, 0 for greedy.
        row_key: (B,) int64 from `counter_rng.row_key`.
        position: (B,) int32, that of the block's first token in the sequence.
        step: (B,) int32, denoise steps already taken in this block.
        steps_left: (B,) int32, this one included.
        mask_id: token id of a mask.

    Returns:
        next_block_ids: (B, L) int32.
        predicted_ids: (B, L) int32, the block's own token where nothing was masked.
        confidence: (B, L) float32, +inf where nothing was masked.
        masked_count: (B,) int32, positions still masked in next_block_ids.
    """
    predicted_ids, confidence = diffusion_predict(
        logits, block_ids, temperature, row_key, position, step, mask_id=mask_id
    )
    next_block_ids, masked_count = diffusion_commit(
        block_ids, predicted_ids, confidence, threshold, steps_left, mask_id=mask_id
    )
    return next_block_ids, predicted_ids, confidence, masked_count


def diffusion_predict(
    logits: Tensor,
    block_ids: Tensor,
    temperature: Tensor,
    row_key: Tensor,
    position: Tensor,
    step: Tensor,
    *,
    mask_id: int,
) -> tuple[Tensor, Tensor]:
    """Return the predicted token of every masked position, and its probability at temperature 1.

    The token is the argmax of the logits without the mask id at temperature 0, else the argmax of logits /
    temperature + Gumbel noise, which is a sample of their softmax.
    """
    masked = block_ids == mask_id
    allowed, choice = allowed_and_choice(logits, temperature, row_key, position, step, mask_id)
    predicted = choice.argmax(-1)
    probability = allowed.softmax(-1).gather(-1, predicted[..., None])[..., 0]
    return (
        torch.where(masked, predicted.int(), block_ids),
        torch.where(masked, probability, torch.inf),
    )


def allowed_and_choice(
    logits: Tensor, temperature: Tensor, row_key: Tensor, position: Tensor, step: Tensor, mask_id: int
) -> tuple[Tensor, Tensor]:
    """Return the logits (B, L, V), −inf for the mask id, and what the argmax is taken of."""
    L, V = logits.shape[1:]
    vocabulary = torch.arange(V, device=logits.device)
    allowed = torch.where(vocabulary == mask_id, -torch.inf, logits)
    if not bool((temperature > 0).any()):
        return allowed, allowed
    positions = position.long()[:, None, None] + torch.arange(L, device=logits.device)[None, :, None]
    uniform = counter_rng.uniform(row_key[:, None, None], positions, step.long()[:, None, None], vocabulary)
    gumbel = -torch.log(-torch.log(uniform.float()))
    hot = temperature[:, None, None] > 0
    noisy = allowed / torch.where(hot, temperature[:, None, None], 1.0) + gumbel
    return allowed, torch.where(hot, noisy, allowed)


def diffusion_commit(
    block_ids: Tensor,
    predicted_ids: Tensor,
    confidence: Tensor,
    threshold: Tensor,
    steps_left: Tensor,
    *,
    mask_id: int,
) -> tuple[Tensor, Tensor]:
    """Return the block after the commit rule, and how many of its positions are still masked.

    Committed are max(#(confidence > γ), 1, ⌈masked / steps left⌉) masked positions, the most confident ones,
    among equals the higher position first.
    """
    L = block_ids.shape[1]
    masked = block_ids == mask_id
    masked_count = masked.sum(-1)
    above = (masked & (confidence > threshold[:, None])).sum(-1)
    left = steps_left.long().clamp(min=1)
    quota = torch.maximum(above, (masked_count + left - 1) // left)
    here, there = confidence[:, :, None], confidence[:, None, :]
    index = torch.arange(L, device=block_ids.device)
    ahead = (there > here) | ((there == here) & (index[None, None, :] > index[None, :, None]))
    rank = (ahead & masked[:, None, :]).sum(-1)
    committed = masked & (rank < quota[:, None])
    next_block_ids = torch.where(committed, predicted_ids, block_ids)
    return next_block_ids, (masked_count - committed.sum(-1)).int()
