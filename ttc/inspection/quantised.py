"""How the matrices of a model are stored: by tower and format."""

import math
from collections import Counter
from collections.abc import Mapping
from typing import Any

from ttc.base.quantised import PLAIN
from ttc.formats.manifest import WeightSpec
from ttc.formats.quantised.layouts import LAYOUTS
from ttc.model.weights import tower_of

__all__ = ["formats", "own_tensors", "parameter_count"]


def formats(weights: Mapping[str, WeightSpec]) -> list[dict[str, Any]]:
    """Return a row per tower, format, and whether they are routed experts: how many matrices.

    Plain matrices are counted where they are routed experts' only. Empty where nothing is quantised.
    """
    counts: Counter[tuple[str, str, bool]] = Counter()
    for name, spec in weights.items():
        experts = ".mixer.experts." in name
        if spec.piece not in ("", "weight") or not (spec.layout or experts):
            continue
        word = LAYOUTS[spec.layout].format.word if spec.layout else PLAIN
        counts[tower_of(name), word, experts] += spec.shape[0] if len(spec.shape) == 3 else 1
    if not any(word != PLAIN for _, word, _ in counts):
        return []
    return [
        {"tower": tower, "format": word, "experts": experts, "matrices": count}
        for (tower, word, experts), count in sorted(counts.items(), key=lambda item: (item[0][0], -item[1]))
    ]


def parameter_count(spec: WeightSpec) -> int:
    """Return the parameters that a weight holds; scales hold none."""
    return math.prod(spec.shape) if spec.piece in ("", "weight") else 0


def own_tensors(spec: WeightSpec) -> tuple[str, ...]:
    """Return the tensors that no other weight of the graphs is made of."""
    layout = LAYOUTS.get(spec.layout)
    made_up = layout is not None and spec.piece and spec.piece not in [p.suffix for p in layout.pieces]
    return () if made_up else spec.tensors
