"""Comparison functions for `polygraphy run`, where an absolute tolerance says little.

`--ttc-compare top1` and `--ttc-compare drift` choose them; as scripts they also serve any Polygraphy command:
`--compare-func-script …/compare.py:top1`.
"""

from collections import OrderedDict
from collections.abc import Mapping
from typing import Any

import numpy as np
from polygraphy.logger import G_LOGGER

__all__ = ["FUNCTIONS", "drift", "top1"]

# Share of positions that must agree, and the largest change of a probability.
TOP1_AGREEMENT = 0.99
CONFIDENCE_DRIFT = 0.02


def top1(first: Mapping[str, Any], second: Mapping[str, Any]) -> OrderedDict[str, bool]:
    """Return whether the most probable token is the same at 99 % of the positions of every tensor of logits;
    tensors of whole numbers must be equal, others are not judged.
    """
    found: OrderedDict[str, bool] = OrderedDict()
    for name in _common(first, second):
        a, b = np.asarray(first[name]), np.asarray(second[name])
        if "logits" in name:
            agreement = float((a.argmax(-1) == b.argmax(-1)).mean())
            G_LOGGER.info(f"{name}: top-1 agreement {agreement:.4f} (at least {TOP1_AGREEMENT} is required)")
            found[name] = agreement >= TOP1_AGREEMENT
        elif a.dtype.kind in "iu":
            same = a.shape == b.shape and bool((a == b).all())
            position = _first_difference(a, b)
            G_LOGGER.info(f"{name}: {'equal' if same else f'first differs at {position}'}")
            found[name] = same
    return found or _nothing("logits and whole numbers")


def drift(first: Mapping[str, Any], second: Mapping[str, Any]) -> OrderedDict[str, bool]:
    """Return whether no confidence, or probability of the most probable token, moves by more than 0.02."""
    found: OrderedDict[str, bool] = OrderedDict()
    for name in _common(first, second):
        a, b = np.asarray(first[name], np.float64), np.asarray(second[name], np.float64)
        if name == "confidence":
            length = min(len(a), len(b))
            moved = float(np.abs(a[:length] - b[:length]).max(initial=0.0))
        elif "logits" in name:
            best = a.argmax(-1)[..., None]
            moved = float(np.abs(_share(a, best) - _share(b, best)).max(initial=0.0))
        else:
            continue
        G_LOGGER.info(f"{name}: moved by up to {moved:.4g} (at most {CONFIDENCE_DRIFT} is required)")
        found[name] = moved <= CONFIDENCE_DRIFT
    return found or _nothing("logits and confidences")


FUNCTIONS = {"top1": top1, "drift": drift}


def _nothing(wanted: str) -> OrderedDict[str, bool]:
    """Return a verdict for two sides that share nothing that could be judged: not passed."""
    G_LOGGER.error(f"nothing to compare: both sides must have outputs of the same name with {wanted}")
    return OrderedDict({"nothing in common": False})


def _common(first: Mapping[str, Any], second: Mapping[str, Any]) -> list[str]:
    return [name for name in first if name in second]


def _share(logits: Any, token_ids: Any) -> Any:
    """Return the softmax of logits (…, V) at token ids (…, 1)."""
    shifted = np.exp(logits - logits.max(-1, keepdims=True))
    return np.take_along_axis(shifted, token_ids, -1) / shifted.sum(-1, keepdims=True)


def _first_difference(a: Any, b: Any) -> int:
    length = min(a.size, b.size)
    wrong = np.flatnonzero(a.ravel()[:length] != b.ravel()[:length])
    return int(wrong[0]) if len(wrong) else length
