"""Distances between what two sides computed, and which layer went wrong first."""

from collections.abc import Iterable, Iterator, Mapping, Sequence

import numpy as np

from ttc.model.config import ModelConfig
from ttc.verify.observe import Floats, Observation
from ttc.verify.report import Comparison, Finding
from ttc.verify.tolerances import Tolerances

__all__ = ["Noise", "compare", "distance", "first_fault", "noise_of"]

# (tensor, layer) → how far the low-precision reference is from the float32 one; empty where there is none.
Noise = Mapping[tuple[str, int | None], float]


def distance(got: Floats, expected: Floats, by_rms: bool) -> float:
    """Return how far `got` is from `expected`, as `ttc.verify.tolerances` says.

    The distance is infinite for another shape, NaN or infinity.
    """
    if got.shape != expected.shape or not np.isfinite(got).all():
        return float("inf")
    a, b = got.astype(np.float64), expected.astype(np.float64)
    if by_rms:
        size = float(np.sqrt(np.mean(b**2))) if b.size else 0.0
        return float(np.sqrt(np.mean((a - b) ** 2))) / max(size, 1e-12) if b.size else 0.0
    return float(np.abs(a - b).max(initial=0.0)) / max(1.0, float(np.abs(b).max(initial=0.0)))


def compare(
    got: Observation, expected: Observation, tolerances: Tolerances, reference: str, noise: Noise
) -> Iterator[Comparison]:
    """Yield every tensor that both sides show of one call: layer by layer its state, then its residual
    stream; then the logits.
    """
    near = tolerances.context if expected.tower == "context" else tolerances.denoiser
    for tensor, layer, a, b in _pairs(got, expected):
        base = near if tensor in ("logits", "residual") else tolerances.states
        tolerance = base + tolerances.times_noise * noise.get((tensor, layer), 0.0)
        same = float((a.argmax(-1) == b.argmax(-1)).mean()) if tensor == "logits" else None
        far = distance(a, b, tolerances.by_rms)
        yield Comparison(reference, expected.call, expected.tower, tensor, layer, far, tolerance, same)


def noise_of(low: Observation, exact: Observation) -> dict[tuple[str, int | None], float]:
    """Return how far a low-precision reference is from the float32 one, tensor by tensor."""
    return {(tensor, layer): distance(a, b, by_rms=True) for tensor, layer, a, b in _pairs(low, exact)}


def _pairs(got: Observation, expected: Observation) -> list[tuple[str, int | None, Floats, Floats]]:
    """Return the name, layer and values of what both sides show, in the order of the computation."""
    states: list[tuple[str, int | None, Floats, Floats]] = []
    if expected.state is not None and got.state is not None:
        for name in expected.state.keys() & got.state.keys():
            kind, layer = name.rsplit(".", 1)
            states.append((kind, int(layer), got.state[name], expected.state[name]))
    layers = expected.residuals.keys() & got.residuals.keys()
    residuals = [("residual", i, got.residuals[i], expected.residuals[i]) for i in layers]
    found = sorted([*states, *residuals], key=lambda pair: (pair[1], pair[0] == "residual", pair[0]))
    if expected.logits is not None and got.logits is not None:
        found.append(("logits", None, got.logits, expected.logits))
    return found


def first_fault(config: ModelConfig, comparisons: Sequence[Comparison]) -> Finding | None:
    """Return the first tensor out of tolerance: of the first call that has one, the lowest layer.

    An error grows on its way through the layers and may pass the tolerance late. So the search goes back from
    there as long as the residual stream before it was off by nearly as much (a tenth), and by more than a
    tenth of the tolerance.
    """
    failed = [c for c in comparisons if not c.passed]
    if not failed:
        return None
    of_call = [c for c in comparisons if (c.call, c.reference) == (failed[0].call, failed[0].reference)]
    first = next((c for c in of_call if not c.passed and c.layer is not None), failed[0])
    if first.layer is not None and first.tensor == "residual":
        first = _where_it_began(first, [c for c in of_call if c.tensor == "residual"])
    kind = None if first.layer is None else config.layers[first.layer].label
    return Finding(first.call, first.tower, first.layer, kind, first.tensor, first.distance, first.tolerance)


def _where_it_began(first: Comparison, residuals: Iterable[Comparison]) -> Comparison:
    before = [c for c in residuals if (c.layer or 0) < (first.layer or 0)]
    for c in reversed(before):
        if c.distance <= first.tolerance / 10 or c.distance < first.distance / 10:
            break
        first = c
    return first
