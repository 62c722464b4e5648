"""Distances between what two sides computed, and which layer went wrong first."""

from collections.abc import Iterable, Iterator, Sequence

import numpy as np

from ttc.config import LAYER_KINDS, ModelConfig
from ttc.verify.observe import Floats, Observation
from ttc.verify.report import Comparison, Finding
from ttc.verify.tolerances import Tolerances

__all__ = ["compare", "distance", "first_fault"]


def distance(got: Floats, due: Floats, by_rms: bool) -> float:
    """How far `got` is from `due`: see `ttc.verify.tolerances`. Infinite for other shapes, NaN and infinity."""
    if got.shape != due.shape or not np.isfinite(got).all():
        return float("inf")
    a, b = got.astype(np.float64), due.astype(np.float64)
    if by_rms:
        size = float(np.sqrt(np.mean(b**2))) if b.size else 0.0
        return float(np.sqrt(np.mean((a - b) ** 2))) / max(size, 1e-12) if b.size else 0.0
    return float(np.abs(a - b).max(initial=0.0)) / max(1.0, float(np.abs(b).max(initial=0.0)))


def compare(
    got: Observation, due: Observation, tolerances: Tolerances, reference: str
) -> Iterator[Comparison]:
    """Every tensor that both sides show of one call: layer by layer its state, then its residual stream; then
    the logits.
    """
    near = tolerances.context if due.tower == "context" else tolerances.denoiser
    layers = sorted(due.residuals.keys() & got.residuals.keys())
    states = sorted((due.state or {}).keys() & (got.state or {}).keys(), key=_layer_of)
    pairs: list[tuple[int, int, str, Floats, Floats, float]] = []
    for name in states:
        assert due.state is not None
        assert got.state is not None
        kind = name.rsplit(".", 1)[0]
        pairs.append((_layer_of(name), 0, kind, got.state[name], due.state[name], tolerances.states))
    pairs += [(i, 1, "residual", got.residuals[i], due.residuals[i], near) for i in layers]
    for layer, _, kind, a, b, tolerance in sorted(pairs, key=lambda pair: pair[:2]):
        far = distance(a, b, tolerances.by_rms)
        yield Comparison(reference, due.call, due.tower, kind, layer, far, tolerance)
    if due.logits is not None and got.logits is not None:
        far = distance(got.logits, due.logits, tolerances.by_rms)
        same = float((got.logits.argmax(-1) == due.logits.argmax(-1)).mean())
        yield Comparison(reference, due.call, due.tower, "logits", None, far, near, same)


def first_fault(config: ModelConfig, comparisons: Sequence[Comparison]) -> Finding | None:
    """The first tensor out of tolerance: of the first call that has one, the lowest layer.

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
    kind = None if first.layer is None else LAYER_KINDS[config.pattern[first.layer]]
    return Finding(
        first.call, first.tower, first.layer, kind, first.tensor, first.distance, first.tolerance
    )


def _where_it_began(first: Comparison, residuals: Iterable[Comparison]) -> Comparison:
    before = [c for c in residuals if c.layer is not None and first.layer is not None and c.layer < first.layer]
    for c in reversed(before):
        if c.distance <= first.tolerance / 10 or c.distance < first.distance / 10:
            break
        first = c
    return first


def _layer_of(name: str) -> int:
    return int(name.rsplit(".", 1)[1])
