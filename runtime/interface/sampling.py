"""Sampling the next token from the logits of a call, wherever those lie: the parameters of every row, the
tokens, and the numpy functions that say what sampling means.
"""

from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import NamedTuple, Protocol

import numpy as np
import numpy.typing as npt

from ttc.plugins.diffusion_step.naive_numpy import gumbel, uniforms

__all__ = [
    "INVALID_TOKEN",
    "NO_BAN",
    "NO_TOKEN",
    "Ban",
    "EagerSamples",
    "LazySamples",
    "RowSampling",
    "SampledTokens",
    "SamplingParams",
    "SplitSamples",
    "TokenMask",
    "next_tokens",
    "token_probabilities",
]

Floats = npt.NDArray[np.float32]
Ints = npt.NDArray[np.int32]
# Stands where the logits are no numbers.
INVALID_TOKEN = -1
# Stands where bans and a mask leave nothing to sample.
NO_TOKEN = -2


@dataclass(frozen=True, slots=True)
class Ban:
    """Tokens that may not be sampled.

    Attributes:
        ids: at every position.
        early_ids: at the first `early` positions of the call only; a minimum length bans eos so.
        early: number of those positions.
    """

    ids: tuple[int, ...] = ()
    early_ids: tuple[int, ...] = ()
    early: int = 0

    def at(self, position: int) -> tuple[int, ...]:
        """Return the ids that are banned at position 0, 1, … of the call."""
        return self.ids + self.early_ids if position < self.early else self.ids


NO_BAN = Ban()


class TokenMask(Protocol):
    """Which tokens may be sampled where only few may: a ban the other way round."""

    def at(self, position: int) -> npt.NDArray[np.bool_]:
        """Return (V,) booleans, True for what may be sampled at position 0, 1, … of the call."""


class RowSampling(NamedTuple):
    """How one row's tokens are sampled. A named tuple, because every step of AR makes one.

    Attributes:
        temperature: 0 takes the most probable token.
        top_k, top_p: as in `token_probabilities`; None for no filter.
        row_key: from `counter_rng.row_key`.
        position: where in the sequence the token stands that the first logits are for.
        ban: tokens that are left out.
        mask: the only tokens that are left; None for all.
        logprobs: whether the tokens' log-probabilities are wanted as well.
    """

    temperature: float
    top_k: int | None
    top_p: float | None
    row_key: int
    position: int
    ban: Ban = NO_BAN
    mask: TokenMask | None = None
    logprobs: bool = False

    @property
    def host_only(self) -> str | None:
        """Why tokens are sampled with all of the row's logits on the host; None where they need not be."""
        if self.ban is not NO_BAN or self.mask is not None:
            return "bans and grammars leave tokens out"
        if self.temperature > 0 and (self.top_k is not None or self.top_p is not None):
            return "top_k and top_p need the logits in order"
        return None


@dataclass(frozen=True, slots=True)
class SamplingParams:
    """How tokens are sampled from logits (B, R, V) at R consecutive positions of every row."""

    rows: tuple[RowSampling, ...]

    @classmethod
    def greedy(cls, batch: int) -> "SamplingParams":
        """Return parameters that take the most probable token in every row."""
        return cls((RowSampling(0.0, None, None, 0, 0),) * batch)

    @property
    def temperature(self) -> Floats:
        """(B,) float32."""
        return np.array([row.temperature for row in self.rows], np.float32)

    @property
    def row_key(self) -> npt.NDArray[np.int64]:
        """(B,) int64."""
        return np.array([row.row_key for row in self.rows], np.int64)

    @property
    def position(self) -> Ints:
        """(B,) int32."""
        return np.array([row.position for row in self.rows], np.int32)


class SampledTokens(ABC):
    """The tokens sampled from the logits of one call."""

    @abstractmethod
    def at(self, rows: npt.ArrayLike, position: int) -> Ints:
        """Return the tokens of these rows of the call at one of the R positions: int32, `INVALID_TOKEN` where
        the logits hold NaN or infinity, `NO_TOKEN` where nothing is left to sample.
        """

    @abstractmethod
    def logprob(self, row: int, position: int, token: int) -> float:
        """Return the natural log of the token's probability at temperature 1, without filters."""


class LazySamples(SampledTokens):
    """Samples in numpy from logits (B, R, V), and only what is asked for: a draw goes through all of V."""

    def __init__(self, logits: Floats, params: SamplingParams) -> None:
        self._logits, self._params = logits, params

    def at(self, rows: npt.ArrayLike, position: int) -> Ints:
        """Compute and return it."""
        which = np.asarray(rows)
        logits = self._logits[which, position]
        usable = np.isfinite(logits).all(-1)
        params = [self._params.rows[row] for row in which.tolist()]
        logits, empty = _left(logits, params, position)
        if usable.all() and not empty.any():
            return next_tokens(logits, params, position)
        tokens = np.full(len(which), INVALID_TOKEN, np.int32)
        tokens[usable & empty] = NO_TOKEN
        usable &= ~empty
        if usable.any():
            own = [params[i] for i in np.flatnonzero(usable).tolist()]
            tokens[usable] = next_tokens(logits[usable], own, position)
        return tokens

    def logprob(self, row: int, position: int, token: int) -> float:
        """Compute and return it."""
        logits = self._logits[row, position].astype(np.float64)
        top = logits.max()
        return float(logits[token] - top - np.log(np.exp(logits - top).sum()))


class EagerSamples(SampledTokens):
    """Tokens sampled where the logits lie, all of them at once: tokens and probabilities (B, R)."""

    def __init__(self, tokens: Ints, probability: Floats) -> None:
        self._tokens, self._probability = tokens, probability

    def at(self, rows: npt.ArrayLike, position: int) -> Ints:
        """Look it up and return it."""
        tokens: Ints = self._tokens[np.asarray(rows), position]
        return tokens

    def logprob(self, row: int, position: int, token: int) -> float:
        """Return it; known for the sampled token only."""
        assert self._tokens[row, position] == token, "only the sampled token's probability came back"
        return float(np.log(self._probability[row, position]))


class SplitSamples(SampledTokens):
    """Tokens sampled where the logits lie, but for some rows: row → samples of that row alone."""

    def __init__(self, most: SampledTokens, others: Mapping[int, SampledTokens]) -> None:
        self._most, self._others = most, others

    def at(self, rows: npt.ArrayLike, position: int) -> Ints:
        """Ask whoever has the row, and return it."""
        which = np.asarray(rows)
        tokens = self._most.at(which, position)
        for i, row in enumerate(which.tolist()):
            if row in self._others:
                tokens[i] = self._others[row].at([0], position)[0]
        return tokens

    def logprob(self, row: int, position: int, token: int) -> float:
        """Ask whoever has the row, and return it."""
        if row in self._others:
            return self._others[row].logprob(0, position, token)
        return self._most.logprob(row, position, token)


def next_tokens(logits: Floats, params: Sequence[RowSampling], ahead: int = 0) -> Ints:
    """Return the next token of every row: (B,) int32; argmax (the lowest id among equals) at temperature 0,
    else a draw.

    A draw is the Gumbel-max over the log-probabilities with the generator's uniforms at (row key, position,
    step 0), so a seed gives the same tokens on every backend.

    Args:
        logits: (B, V).
        params: one a row.
        ahead: how many positions after `RowSampling.position` the token stands.
    """
    tokens = _argmax(logits)
    for i, row in enumerate(params):
        if row.temperature > 0:
            tokens[i] = _draw(logits[i : i + 1], row, row.position + ahead)
    return tokens


def token_probabilities(logits: Floats, temperature: float, top_k: int | None, top_p: float | None) -> Floats:
    """Return the distribution that a token is drawn from: temperature, then top-k, then top-p, renormalised
    after each.

    Args:
        logits: (B, V).
        temperature: above 0.
        top_k: keep the k largest; all equal to the k-th are kept.
        top_p: keep the smallest set of most probable tokens whose probability reaches p; the most probable
            one always stays.

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


def _draw(logits: Floats, row: RowSampling, position: int) -> int:
    probabilities = token_probabilities(logits, row.temperature, row.top_k, row.top_p)
    key, at = np.array([row.row_key], np.int64), np.array([position], np.int32)
    with np.errstate(divide="ignore"):  # log 0 = −inf is what excludes a token
        noise = gumbel(uniforms(key, at, np.zeros_like(at), (1, logits.shape[-1]))[:, 0])
        return int(_argmax(np.log(probabilities) + noise)[0])


def _left(
    logits: Floats, params: Sequence[RowSampling], position: int
) -> tuple[Floats, npt.NDArray[np.bool_]]:
    """Return the logits (B, V) with −inf for what may not be sampled, a copy where that is something; and
    (B,) whether that is everything.
    """
    bans = [row.ban.at(position) for row in params]
    empty = np.zeros(len(params), np.bool_)
    if not any(bans) and all(row.mask is None for row in params):
        return logits, empty
    logits = logits.copy()
    for i, (row, ids) in enumerate(zip(params, bans, strict=True)):
        if row.mask is not None:
            np.copyto(logits[i], -np.inf, where=~row.mask.at(position))
        logits[i, list(ids)] = -np.inf
        empty[i] = (row.mask is not None or bool(ids)) and logits[i].max() == -np.inf
    return logits, empty


def _argmax(scores: Floats) -> Ints:
    best: Ints = scores.argmax(-1).astype(np.int32)
    return best


def _softmax(logits: npt.NDArray[np.float64]) -> npt.NDArray[np.float64]:
    return _normalise(np.exp(logits - logits.max(-1, keepdims=True)))


def _normalise(weights: npt.NDArray[np.float64]) -> npt.NDArray[np.float64]:
    normalised: npt.NDArray[np.float64] = weights / weights.sum(-1, keepdims=True)
    return normalised
