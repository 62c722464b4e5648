"""Every tolerance of `ttc verify`, by the dtype that a backend computes in.

float32: the largest absolute difference, over the largest reference value where that exceeds 1. The figures
are those that the reference implementation meets against its own float64 run, times ten (tests/golden); the
denoiser's are wider because its time sinusoid's argument reaches 1000.

float16 and bfloat16: the root mean square of the difference over that of the reference. How far rounding
takes a model depends on the model: a router whose two best experts are nearly equal may choose another one,
and move a token's values by much. So the yardstick is the reference itself, computed in the same dtype: a
backend may be twice as far from the float32 reference as that is, and a little more where that is near
nothing. From the low-precision reference it may be three times that far, the sum of both ways.
"""

import dataclasses
from collections.abc import Mapping
from dataclasses import dataclass

__all__ = ["QUANTISED_ERRORS", "TRANSFORMERS", "Tolerances", "tolerances_of"]


@dataclass(frozen=True, slots=True)
class Tolerances:
    """How far a backend may be from a reference.

    Attributes:
        by_rms: whether distances are root mean squares (else the largest difference counts).
        context, denoiser: logits and residual streams of the two towers.
        states: the context state.
        times_noise: how many times the low-precision reference's own distance comes on top.
        tokens_equal: whether generated tokens must be the same.
    """

    by_rms: bool
    context: float
    denoiser: float
    states: float
    times_noise: float
    tokens_equal: bool


_FLOAT32 = Tolerances(
    by_rms=False, context=3e-4, denoiser=3e-3, states=3e-4, times_noise=0, tokens_equal=True
)
_FLOAT16 = Tolerances(
    by_rms=True, context=3e-3, denoiser=3e-3, states=3e-3, times_noise=2, tokens_equal=False
)
_BFLOAT16 = Tolerances(
    by_rms=True, context=2e-2, denoiser=2e-2, states=2e-2, times_noise=2, tokens_equal=False
)
_TABLE: Mapping[str, Tolerances] = {"float32": _FLOAT32, "float16": _FLOAT16, "bfloat16": _BFLOAT16}

# Quantised weights: the most that ‖decoded − original‖ / ‖original‖ of a matrix comes to by rounding to
# nearest (normal weights: 0.007, 0.026, 0.095, 0.10 and 0.12; smaller matrices scatter).
QUANTISED_ERRORS: Mapping[str, float] = {
    "int8": 0.01,
    "fp8": 0.03,
    "nvfp4": 0.13,
    "int4": 0.13,
    "mxfp4": 0.15,
}

# Context logits against transformers' own NemotronH, in float32, its clamp of dt neutralised.
TRANSFORMERS = 3e-4


def tolerances_of(computes_in: str, reference: str = "float32") -> Tolerances:
    """Return the tolerances of a backend that computes in one dtype, against a reference that computes in
    another or the same.
    """
    if reference == "float32":
        return _TABLE[computes_in]
    own = _TABLE[reference]
    return dataclasses.replace(own, times_noise=own.times_noise + 1)
