"""How many experts the tokens of a pass choose together: the bulk of what it has to read.

Independent: every token chooses K of E experts, each set equally likely, whatever the others choose. The mean
number chosen by at least one of n tokens is E·(1 − (1 − K/E)^n).

Correlated: tokens of one block choose alike, since they are alike (all masked ones start from the same
embedding). With an overlap o from 0 to 1, each further token of a block counts as 1 − o of an independent
one: n = rows · (1 + (L − 1)·(1 − o)). Rows are taken as independent. `fit_overlap` turns a measurement
into o.
"""

import math
from dataclasses import dataclass

from ttc.errors import InputError

__all__ = ["Routing", "distinct_experts", "fit_overlap"]


@dataclass(frozen=True, slots=True)
class Routing:
    """How experts are chosen and run.

    Attributes:
        overlap: o above; 0 is independent.
        dense: every expert is applied to every token, as the ONNX function bodies do (ONNX Runtime, TensorRT
            without plugins); else only what was chosen is read and computed.
    """

    overlap: float = 0.0
    dense: bool = False

    def __post_init__(self) -> None:
        if not 0 <= self.overlap <= 1:
            raise InputError(f"overlap is {self.overlap}; valid: 0 (independent) to 1 (all tokens alike)")

    def experts(self, experts: int, per_token: int, rows: int, length: int) -> float:
        """Return how many experts a pass over `rows` blocks of `length` tokens reads."""
        if self.dense:
            return float(experts)
        return distinct_experts(experts, per_token, rows * (1 + (length - 1) * (1 - self.overlap)))


def distinct_experts(experts: int, per_token: int, tokens: float) -> float:
    """Return the mean number of experts that `tokens` independent tokens choose together."""
    missed: float = (1 - per_token / experts) ** tokens
    return experts * (1 - missed)


def fit_overlap(experts: int, per_token: int, length: int, measured: float) -> float:
    """Return the overlap, 0 to 1, at which blocks of `length` tokens choose `measured` experts."""
    if length < 2:
        raise InputError(f"a block of {length} tokens tells nothing of overlap; valid: at least 2")
    if not per_token <= measured <= experts:
        raise InputError(f"{measured} experts measured; valid: {per_token} to {experts}")
    if measured == experts or per_token == experts:
        return 0.0
    independent = math.log(1 - measured / experts) / math.log(1 - per_token / experts)
    return min(max(1 - (independent - 1) / (length - 1), 0.0), 1.0)
