"""The meaning of the ops of splits in torch; put together they are `ttc.plugins.diffusion_step.naive`."""

import torch
from torch import Tensor
from torch.nn import functional

from ttc.plugins.diffusion_step.naive import allowed_and_choice, diffusion_commit

__all__ = ["split_choice", "split_commit", "split_predict"]


def split_predict(
    logits: Tensor,
    block_ids: Tensor,
    temperature: Tensor,
    row_key: Tensor,
    position: Tensor,
    step: Tensor,
    *,
    mask_id: int,
    X: int,
) -> tuple[Tensor, Tensor, Tensor, Tensor, Tensor]:
    """Read each of X splits of the vocabulary.

    Args:
        logits: (B, L, V) in the compute dtype.
        block_ids, temperature, row_key, position, step, mask_id: as of `diffusion_predict`.
        X: number of splits.

    Returns:
        Five tensors (B, L, X), 0 where nothing is masked, which logits are then not of concern:
        highest: float32, the largest logit that is a number; −inf where there is none.
        total: float32, the sum of exp(logit − highest). NaN where a logit is NaN or +inf.
        best_value: float32, what chooses, of the best id: its logit, or the noisy one; a NaN is the best.
        best_logit: float32, of that id.
        best_id: int32, the lowest of equals. A split of no id below V has the best value −inf, and an id of V
            or more.
    """
    V = logits.shape[2]
    width = -(-V // X)
    both = allowed_and_choice(logits.float(), temperature, row_key, position, step, mask_id)
    allowed, choice = (
        functional.pad(each, (0, X * width - V), value=-torch.inf).unflatten(2, (X, width)) for each in both
    )
    highest = allowed.nan_to_num(-torch.inf, torch.inf, -torch.inf).amax(-1)
    shift = torch.where(highest == -torch.inf, 0.0, highest)
    best = choice.argmax(-1, keepdim=True)
    first = torch.arange(X, device=logits.device) * width
    splits = (
        highest,
        (allowed - shift[..., None]).exp().sum(-1),
        choice.gather(-1, best)[..., 0],
        allowed.gather(-1, best)[..., 0],
        (best[..., 0] + first).int(),
    )
    masked = (block_ids == mask_id)[..., None]
    return tuple(torch.where(masked, tensor, torch.zeros_like(tensor)) for tensor in splits)  # type: ignore[return-value]  # five of them


def split_choice(
    highest: Tensor,
    total: Tensor,
    best_value: Tensor,
    best_logit: Tensor,
    best_id: Tensor,
    block_ids: Tensor,
    *,
    mask_id: int,
) -> tuple[Tensor, Tensor]:
    """Return what `diffusion_predict` returns, from the outputs of `split_predict`."""
    masked = block_ids == mask_id
    best = best_value.argmax(-1, keepdim=True)  # ids ascend with the splits
    top = highest.amax(-1)
    summed = (total * (highest - top[..., None]).exp()).sum(-1)
    probability = (best_logit.gather(-1, best)[..., 0] - top).exp() / summed
    return (
        torch.where(masked, best_id.gather(-1, best)[..., 0], block_ids),
        torch.where(masked, probability, torch.inf),
    )


def split_commit(
    highest: Tensor,
    total: Tensor,
    best_value: Tensor,
    best_logit: Tensor,
    best_id: Tensor,
    block_ids: Tensor,
    threshold: Tensor,
    steps_left: Tensor,
    *,
    mask_id: int,
) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """Return what `diffusion_step` returns, from the outputs of `split_predict`."""
    predicted_ids, confidence = split_choice(
        highest, total, best_value, best_logit, best_id, block_ids, mask_id=mask_id
    )
    next_block_ids, masked_count = diffusion_commit(
        block_ids, predicted_ids, confidence, threshold, steps_left, mask_id=mask_id
    )
    return next_block_ids, predicted_ids, confidence, masked_count
