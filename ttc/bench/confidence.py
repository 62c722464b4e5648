"""How sure the denoiser is of a block that is all masks: what a change of weights moves first."""

from collections.abc import Sequence

import numpy as np
import numpy.typing as npt

from ttc.runtime.decoding.options import TRAINED_BLOCK_SIZE
from ttc.runtime.engine import Engine

__all__ = ["ConfidenceChange", "block_confidence", "confidence_change", "first_blocks"]

# Enough that a share of a thousandth shows, few enough that a record stays small.
_MOST_PROMPTS = 200
_DECIMALS = 5

# Mean |Δ|, and the share of positions that are on the other side of the threshold.
ConfidenceChange = tuple[float, float]


def block_confidence(
    engine: Engine, context: Sequence[int], block_size: int = TRAINED_BLOCK_SIZE
) -> npt.NDArray[np.float32]:
    """Return the largest probability at each position of the masked block after `context`, at t = 1.

    The mask itself cannot be chosen and has no share: what `DiffusionCommit` compares with the threshold.

    Args:
        context: token ids (C,).
        block_size: L.

    Returns:
        float32 (L,).
    """
    mask = engine.config.mask_token_id
    logits = engine.denoiser_logits(list(context), [mask] * block_size, 1.0).astype(np.float64)
    logits[:, mask] = -np.inf
    shares = np.exp(logits - logits.max(axis=1, keepdims=True))
    return np.asarray(shares.max(axis=1) / shares.sum(axis=1), np.float32)


def first_blocks(engine: Engine, prompts: Sequence[Sequence[int]]) -> tuple[float, ...]:
    """Return the confidences of the first block after each prompt, of at most 200 evenly spread ones."""
    count = min(_MOST_PROMPTS, len(prompts))
    chosen = [prompts[at * len(prompts) // count] for at in range(count)]
    found = np.concatenate([block_confidence(engine, prompt) for prompt in chosen])
    return tuple(round(float(each), _DECIMALS) for each in found)


def confidence_change(
    first: Sequence[float] | npt.NDArray[np.float32],
    second: Sequence[float] | npt.NDArray[np.float32],
    threshold: float,
) -> ConfidenceChange:
    """Return the mean |Δ| of two runs' confidences, and the share of positions that cross the threshold."""
    a, b = np.asarray(first, np.float64), np.asarray(second, np.float64)
    crossed = (a >= threshold) != (b >= threshold)
    return float(np.abs(a - b).mean()), float(crossed.mean())
