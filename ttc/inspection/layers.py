"""Parameters and bytes of a model by layer and by layer kind."""

import re
from collections.abc import Iterable
from typing import Any

from ttc.model.config import ModelConfig
from ttc.model.weights import CONTEXT, DENOISER, tower_of

__all__ = ["by_kind", "by_layer"]

_LAYER = re.compile(r"(?:context_tower|denoiser_tower)\.layers\.(\d+)\.|scale_shift_tables\.(\d+)$")
# Name, parameters and bytes of a weight.
Weights = Iterable[tuple[str, int, int]]


def by_layer(config: ModelConfig, weights: Weights) -> list[dict[str, Any]]:
    """One row per layer: its kind, and what both towers hold there."""
    rows: list[dict[str, Any]] = [
        {"layer": i, "kind": kind.label, CONTEXT: 0, DENOISER: 0, "bytes": 0}
        for i, kind in enumerate(config.layers)
    ]
    for name, parameters, nbytes in weights:
        match = _LAYER.match(name)
        if match:
            row = rows[int(match[1] or match[2])]
            row[tower_of(name)] += parameters
            row["bytes"] += nbytes
    return rows


def by_kind(config: ModelConfig, weights: Weights) -> dict[str, dict[str, int]]:
    """Return the parameters and bytes of every kind of layer, of embeddings and heads, and of the time
    embedding; the largest first.
    """
    found: dict[str, dict[str, int]] = {}
    for name, parameters, nbytes in weights:
        row = found.setdefault(_kind(config, name), {"parameters": 0, "bytes": 0})
        row["parameters"] += parameters
        row["bytes"] += nbytes
    return dict(sorted(found.items(), key=lambda item: -item[1]["bytes"]))


def _kind(config: ModelConfig, name: str) -> str:
    match = _LAYER.match(name)
    if match:
        return config.layers[int(match[1] or match[2])].label
    return "time embedding" if name.startswith("t_") else "embeddings and heads"
