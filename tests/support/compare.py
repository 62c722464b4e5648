"""Comparing arrays, with a message that says where they differ."""

from typing import Any

import numpy as np
import numpy.typing as npt


def assert_close(got: npt.ArrayLike, want: npt.ArrayLike, atol: float, what: str) -> None:
    """Equal shapes, no NaN on either side, and nowhere further apart than atol."""
    a, b = np.asarray(got, np.float64), np.asarray(want, np.float64)
    assert a.shape == b.shape, f"{what}: shape {a.shape}, expected {b.shape}"
    assert not np.isnan(a).any(), f"{what}: {np.isnan(a).sum()} NaN in the result"
    assert not np.isnan(b).any(), f"{what}: {np.isnan(b).sum()} NaN in the expected values"
    with np.errstate(invalid="ignore"):  # equal infinities
        difference = np.where(a == b, 0.0, np.abs(a - b))
    if difference.max(initial=0.0) > atol:
        worst = np.argsort(-difference, axis=None)[:3]
        places = [tuple(int(i) for i in np.unravel_index(w, a.shape)) for w in worst]
        shown = ", ".join(f"{p}: {a[p]:.6g} for {b[p]:.6g}" for p in places)
        raise AssertionError(f"{what}: off by up to {difference.max():.3g} (tolerance {atol:g}) at {shown}")


def assert_equal(got: Any, want: Any, what: str) -> None:
    """Equal as integer arrays, with the first difference named."""
    a, b = np.asarray(got), np.asarray(want)
    assert a.shape == b.shape, f"{what}: shape {a.shape}, expected {b.shape}"
    wrong = np.argwhere(a != b)
    assert not len(wrong), (
        f"{what}: first differs at {tuple(wrong[0])}: {a[tuple(wrong[0])]} for {b[tuple(wrong[0])]}"
    )
