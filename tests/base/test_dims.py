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
        ("L-1", 15),
        ("B*L-1 + C-1", "C-1 + 30"),
    ],
)
def test_known_letters_become_numbers(dim, left):
    assert substitute(dim, SIZES) == left
    if isinstance(dim, str):
        everything = SIZES | {"C": 5, "R": 7}
        assert evaluate(substitute(dim, SIZES), everything) == evaluate(dim, everything)
        assert letters(left) == letters(dim) - SIZES.keys()


class Symbolic:
    """A dimension as TensorRT has them: it takes an int on its right only. Keeps what was computed."""

    def __init__(self, text):
        self.text = text

    def __add__(self, other):
        return Symbolic(f"({self.text} + {other.text if isinstance(other, Symbolic) else other})")

    def __mul__(self, other):
        return Symbolic(f"{self.text} * {other.text if isinstance(other, Symbolic) else other}")

    def __sub__(self, other):
        return Symbolic(f"({self.text} - {other})")


@pytest.mark.parametrize(
    ("dim", "sizes", "value"),
    [
        ("E+1", {"E": 4}, 5),
        ("H*P+2*G*N", {"H": 4, "P": 3, "G": 2, "N": 5}, 32),
        ("W-1", {"W": 4}, 3),
        ("W-1", {"W-1": 3}, 3),
        ("T*K", {"T": "B*L", "K": 6}, "B*L*6"),
        ("T*K", {"T": "C + L", "K": 2}, "C*2 + L*2"),
        ("T*K", {"T": "B*L", "K": 1}, "B*L"),
        ("T*K", {"T*K": "6*B*L", "T": "B*L", "K": 6}, "6*B*L"),
        ("T+1", {"T": "B*L"}, "B*L + 1"),
        ("batch-size*2", {"batch-size": 3}, 6),
    ],
)
def test_sizes_are_numbers_or_texts(dim, sizes, value):
    assert evaluate(dim, sizes) == value


@pytest.mark.parametrize(
    ("dim", "text"), [("6*T", "T * 6"), ("T*K+1", "(T * 2 + 1)"), ("1+T", "(T + 1)"), ("T-1", "(T - 1)")]
)
def test_an_int_stands_on_the_right_of_a_symbolic_dimension(dim, text):
    assert evaluate(dim, {"T": Symbolic("T"), "K": 2}).text == text


def test_a_letter_without_a_size_is_named():
    with pytest.raises(KeyError, match="C"):
        evaluate("C + L", SIZES)


def test_names_of_other_peoples_graphs_are_names():
    assert letters("batch-size") == {"batch-size"}
    assert letters("W-1") == {"W"}
