"""Sampling the next token from the logits of a call, wherever those lie: the parameters, the tokens, and the
numpy functions that say what sampling means.
"""

from abc import ABC, abstractmethod
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from ttc.plugins.diffusion_step.naive_numpy import gumbel, uniforms

__all__ = [
    "INVALID_TOKEN",
    "EagerSamples",
    "LazySamples",
    "SampledTokens",
    "SamplingParams",
    "next_tokens",
    "token_probabilities",
]

Floats = npt.NDArray[np.float32]
Ints = npt.NDArray[np.int32]
# Stands where the logits are no numbers.
INVALID_TOKEN = -1


@dataclass(frozen=True, slots=True)
class SamplingParams:
    """How tokens are chosen from logits (B, R, V) at R positions of a row.

    Attributes:
        temperature, top_k, top_p: of all rows, as in `ttc.runtime.interface.sampling`.
        row_key: (B,) int64 from `counter_rng.row_key`.
        position: (B,) int32, where in the sequence the token stands that the first logits are for; those
            after it are for the tokens that follow.
    """

    temperature: float
    top_k: int | None
    top_p: float | None
    row_key: npt.NDArray[np.int64]
    position: Ints

    @property
    def filters(self) -> bool:
        """Whether some tokens are excluded before the draw."""
        return self.temperature > 0 and (self.top_k is not None or self.top_p is not None)


class SampledTokens(ABC):
    """The tokens chosen from the logits of one call."""

    @abstractmethod
    def at(self, rows: npt.ArrayLike, position: int) -> Ints:
        """Return the tokens of these rows of the batch at one of the R positions: int32, `INVALID_TOKEN`
        where the logits hold NaN.
        """


class LazySamples(SampledTokens):
    """Chooses in numpy from logits (B, R, V), and only what is asked for: a draw goes through all of V."""

    def __init__(self, logits: npt.NDArray[np.float32], how: SamplingParams) -> None:
        self._logits, self._how = logits, how

    def at(self, rows: npt.ArrayLike, position: int) -> Ints:
        """As declared; computed here."""
        which, how = np.asarray(rows), self._how
        logits = self._logits[which, position]
        usable = ~np.isnan(logits).any(-1)
        tokens = np.full(len(which), INVALID_TOKEN, np.int32)
        tokens[usable] = next_tokens(
            logits[usable],
            how.temperature,
            how.top_k,
            how.top_p,
            how.row_key[which[usable]],
            how.position[which[usable]] + np.int32(position),
        )
        return tokens


class EagerSamples(SampledTokens):
    """SampledTokens made where the logits lie, all of them at once: (B, R) int32."""

    def __init__(self, tokens: Ints) -> None:
        self._tokens = tokens

    def at(self, rows: npt.ArrayLike, position: int) -> Ints:
        """As declared; looked up here."""
        made: Ints = self._tokens[np.asarray(rows), position]
        return made


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
