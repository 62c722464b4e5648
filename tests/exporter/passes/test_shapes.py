"""Symbolic dimensions: reckoning with letters."""

import pytest

from ttc.base.dims import evaluate, letters, substitute

SIZES = {"B": 2, "L": 16}


@pytest.mark.parametrize(
    ("dim", "left"),
    [
        (64, 64),
        ("B", 2),
        ("C", "C"),
        ("6*B*L", 192),
        ("L*C", "16*C"),
        ("C + L", "C + 16"),
        ("L + B", 18),
        ("B*C + 3*L + R", "2*C + R + 48"),
    ],
)
def test_known_letters_become_numbers(dim, left):
    assert substitute(dim, SIZES) == left
    if isinstance(dim, str):
        everything = SIZES | {"C": 5, "R": 7}
        assert evaluate(substitute(dim, SIZES), everything) == evaluate(dim, everything)
        assert letters(left) == letters(dim) - SIZES.keys()
