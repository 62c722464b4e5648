"""Every tolerance of `ttc verify`, by the dtype that a backend computes in.

float32: the largest absolute difference, over the largest reference value where that exceeds 1. The figures
are those that the reference implementation meets against its own float64 run, times ten (tests/golden); the
denoiser's are wider because its time sinusoid's argument reaches 1000.

float16 and bfloat16: the root mean square of the difference over that of the reference. A single router whose
two best experts are nearly equal may choose another one after rounding and move one token's values by much, so
the largest difference says nothing there; a fault in the arithmetic moves all of them.
"""

from collections.abc import Mapping
from dataclasses import dataclass

__all__ = ["TOLERANCES", "TRANSFORMERS", "Tolerances"]


@dataclass(frozen=True, slots=True)
class Tolerances:
    """How far a backend may be from the float32 reference.

    Attributes:
        by_rms: whether distances are root mean squares (else the largest difference counts).
        context, denoiser: logits and residual streams of the two towers.
        states: the context state.
        tokens_equal: whether generated tokens must be the same.
    """

    by_rms: bool
    context: float
    denoiser: float
    states: float
    tokens_equal: bool


TOLERANCES: Mapping[str, Tolerances] = {
    "float32": Tolerances(by_rms=False, context=3e-4, denoiser=3e-3, states=3e-4, tokens_equal=True),
    "float16": Tolerances(by_rms=True, context=3e-2, denoiser=3e-2, states=3e-2, tokens_equal=False),
    "bfloat16": Tolerances(by_rms=True, context=1e-1, denoiser=1e-1, states=1e-1, tokens_equal=False),
}
# Context logits against transformers' own NemotronH, in float32, its clamp of dt neutralised.
TRANSFORMERS = 3e-4
