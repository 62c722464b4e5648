"""Of many combinations those that `make test` runs; the others are marked `full`."""

from collections.abc import Collection, Iterable
from typing import Any

import pytest

__all__ = ["sample"]


def sample(values: Iterable[Any], chosen: Collection[Any]) -> list[Any]:
    """Parameters of one name: the chosen values as they are, the others for `--full` only."""
    values = list(values)
    assert all(value in values for value in chosen), f"{set(chosen).difference(values)} are no values"
    return [value if value in chosen else pytest.param(value, marks=pytest.mark.full) for value in values]
