"""Choosing the next token in AR and mock-AR: greedy, temperature, top-k, top-p, with the counter-based
generator.
"""

import numpy as np
import numpy.typing as npt

from ttc.plugins.diffusion_step.naive_numpy import gumbel, uniforms

__all__ = ["next_tokens", "token_probabilities"]

Floats = npt.NDArray[np.float32]


def token_probabilities(logits: Floats, temperature: float, top_k: int | None, top_p: float | None) -> Floats:
    """Distribution that a token is drawn from: temperature, then top-k, then top-p, renormalised after each.

    Args:
        logits: (B, V).  temperature > 0.
        top_k: keep the k largest (all equal to the k-th are kept).  top_p: keep the smallest set of most
            probable tokens whose probability reaches p; the most probable one always stays.

    Returns:
        (B, V) float32, rows sum to 1.
    """
    probabilities = _softmax(logits.astype(np.float64) / temperature)
    if top_k is not None and top_k < logits.shape[-1]:
        kth = np.partition(probabilities, -top_k, axis=-1)[:, -top_k, None]
        probabilities = _normalise(np.where(probabilities >= kth, probabilities, 0.0))
    if top_p is not None and top_p < 1.0:
        order = np.argsort(-probabilities, axis=-1, kind="stable")
        ranked = np.take_along_axis(probabilities, order, -1)
        before = np.cumsum(ranked, axis=-1) - ranked
        kept = np.where(before < top_p, ranked, 0.0)
        kept[:, 0] = ranked[:, 0]
        np.put_along_axis(probabilities, order, kept, -1)
        probabilities = _normalise(probabilities)
    result: Floats = probabilities.astype(np.float32)
    return result


def next_tokens(
    logits: Floats,
    temperature: float,
    top_k: int | None,
    top_p: float | None,
    row_key: npt.NDArray[np.int64],
    position: npt.NDArray[np.int32],
) -> npt.NDArray[np.int32]:
    """The next token of every row: (B,) int32; argmax (lowest id among equals) at temperature 0, else drawn.

    A draw is the Gumbel-max over the log-probabilities with the generator's uniforms at (row, position, step
    0), so a seed gives the same tokens on every backend.
    """
    if temperature == 0.0:
        return _argmax(logits)
    probabilities = token_probabilities(logits, temperature, top_k, top_p)
    with np.errstate(divide="ignore"):  # log 0 = −inf is what excludes a token
        noise = gumbel(uniforms(row_key, position, np.zeros_like(position), (1, logits.shape[-1]))[:, 0])
        return _argmax(np.log(probabilities) + noise)


def _argmax(scores: Floats) -> npt.NDArray[np.int32]:
    best: npt.NDArray[np.int32] = scores.argmax(-1).astype(np.int32)
    return best


def _softmax(logits: npt.NDArray[np.float64]) -> npt.NDArray[np.float64]:
    return _normalise(np.exp(logits - logits.max(-1, keepdims=True)))


def _normalise(weights: npt.NDArray[np.float64]) -> npt.NDArray[np.float64]:
    normalised: npt.NDArray[np.float64] = weights / weights.sum(-1, keepdims=True)
    return normalised
