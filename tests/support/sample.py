"""Of many combinations those that `make test` runs; the others are marked `full`."""

from collections.abc import Iterable
from typing import Any

import pytest

__all__ = ["sample"]


def sample(values: Iterable[Any], every: int) -> list[Any]:
    """Parameters of one name: of so many values the first as it is, the others for `--full` only."""
    return [
        value if place % every == 0 else pytest.param(value, marks=pytest.mark.full)
        for place, value in enumerate(values)
    ]
