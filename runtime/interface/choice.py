"""Choosing AR's own tokens from the logits of a call, wherever those lie."""

from abc import ABC, abstractmethod
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from ttc.runtime.interface.sampling import next_tokens

__all__ = ["NO_TOKEN", "Choices", "Choosing", "HostChoices", "MadeChoices"]

Ints = npt.NDArray[np.int32]
# Stands where the logits are no numbers.
NO_TOKEN = -1


@dataclass(frozen=True, slots=True)
class Choosing:
    """How tokens are chosen from logits (B, R, V) at R places in a row.

    Attributes:
        temperature, top_k, top_p: of all rows, as in `ttc.runtime.interface.sampling`.
        row_key: (B,) int64 from `counter_rng.row_key`.
        position: (B,) int32, where in the sequence the token stands that the first logits are for; those
            behind it are for the tokens that follow.
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


class Choices(ABC):
    """The tokens chosen from the logits of one call."""

    @abstractmethod
    def at(self, rows: npt.ArrayLike, place: int) -> Ints:
        """Tokens of these rows of the batch at one of the R places: int32, `NO_TOKEN` where there are NaN
        logits.
        """


class HostChoices(Choices):
    """Chooses in numpy from logits (B, R, V), and only what is asked for: a draw goes through all of V."""

    def __init__(self, logits: npt.NDArray[np.float32], how: Choosing) -> None:
        self._logits, self._how = logits, how

    def at(self, rows: npt.ArrayLike, place: int) -> Ints:
        """As declared; computed here."""
        which, how = np.asarray(rows), self._how
        logits = self._logits[which, place]
        usable = ~np.isnan(logits).any(-1)
        tokens = np.full(len(which), NO_TOKEN, np.int32)
        tokens[usable] = next_tokens(
            logits[usable],
            how.temperature,
            how.top_k,
            how.top_p,
            how.row_key[which[usable]],
            how.position[which[usable]] + np.int32(place),
        )
        return tokens


class MadeChoices(Choices):
    """Choices made where the logits lie, all of them at once: (B, R) int32."""

    def __init__(self, tokens: Ints) -> None:
        self._tokens = tokens

    def at(self, rows: npt.ArrayLike, place: int) -> Ints:
        """As declared; looked up here."""
        made: Ints = self._tokens[np.asarray(rows), place]
        return made
