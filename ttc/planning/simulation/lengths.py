"""How many tokens a prompt or an answer has: a distribution, written as one word."""

import math
import random
from dataclasses import dataclass

from ttc.errors import InputError
from ttc.formats.strictjson import quoted

__all__ = ["Lengths"]

_VALID = "N, A-B (evenly), exp:MEAN, or lognormal:MEDIAN,SIGMA; tokens from 1 to 1000000"
_MOST = 1_000_000


@dataclass(frozen=True, slots=True)
class Lengths:
    """A distribution over token counts from 1 on.

    Attributes:
        kind: "even" from `first` to `second`; "exp" of mean `first`; "lognormal" of median `first` and
            standard deviation `second` of the logarithm.
    """

    kind: str
    first: float
    second: float

    @classmethod
    def parse(cls, text: str) -> "Lengths":
        """Read "512", "64-1024", "exp:200" or "lognormal:300,0.8"."""
        kind, colon, rest = text.partition(":")
        try:
            if not colon:
                low, _, high = text.partition("-")
                made = cls("even", int(low), int(high or low))
            elif kind == "exp":
                made = cls("exp", float(rest), 0.0)
            elif kind == "lognormal":
                median, sigma = map(float, rest.split(","))
                made = cls("lognormal", median, sigma)
            else:
                raise ValueError
        except ValueError:
            raise InputError(f"a length of {quoted(text)}; valid: {_VALID}") from None
        last = made.second if made.kind == "even" else made.first
        if not (1 <= made.first <= last <= _MOST and 0 <= made.second <= _MOST):
            raise InputError(f"a length of {quoted(text)}; valid: {_VALID}")
        return made

    def draw(self, rng: random.Random, most: int) -> int:
        """Return a number of tokens from 1 to `most`."""
        if self.kind == "even":
            drawn = float(rng.randint(int(self.first), int(self.second)))
        elif self.kind == "exp":
            drawn = rng.expovariate(1 / self.first)
        else:
            drawn = self.first * math.exp(rng.gauss(0.0, self.second))
        return min(max(round(drawn), 1), most)
