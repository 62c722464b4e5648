"""How probable tokens were that are known already, from the logits before them."""

from collections.abc import Sequence

import numpy as np
import numpy.typing as npt

from ttc.runtime.decoding.result import TokenScore

__all__ = ["token_scores"]


def token_scores(logits: npt.NDArray[np.float32], targets: Sequence[int]) -> tuple[TokenScore, ...]:
    """Return the scores of tokens; NaN where the logits hold one, or an infinity.

    Args:
        logits: (R, V), each row before the token it is about; R may be more than there are tokens.
        targets: the tokens.
    """
    used = logits[: len(targets)].astype(np.float64)
    top = used.argmax(-1)
    best = used.max(-1)
    with np.errstate(invalid="ignore"):
        norm = best + np.log(np.exp(used - best[:, None]).sum(-1))
    norm[~np.isfinite(used).all(-1)] = np.nan
    picked = used[np.arange(len(targets)), np.asarray(targets, np.int64)]
    return tuple(
        TokenScore(token, float(picked[i] - norm[i]), int(top[i]), float(best[i] - norm[i]))
        for i, token in enumerate(targets)
    )
