"""The modes, one file each. A mode says what its rows need next and what an outcome means for them."""

from typing import Protocol

from ttc.runtime.decoding.rows import Row
from ttc.runtime.decoding.work import Due, Outcome, Sampled

__all__ = ["Mode"]


class Mode(Protocol):
    """One row's way to write. Made when the row starts; the core asks `due`, and hands back what came of it.

    Attributes:
        samples_after_prompt: whether the token after the prompt is sampled from the prompt's logits.
    """

    samples_after_prompt: bool

    def prompt(self, row: Row) -> tuple[int, ...]:
        """Return what the context tower reads before the mode starts."""

    def start(self, row: Row, sampled: Sampled | None) -> None:
        """Begin, with the prompt read; `sampled` is its next token where the mode asked for it."""

    def due(self, row: Row) -> Due:
        """Return what the row needs next; asking twice gives the same."""

    def settle(self, row: Row, due: Due, outcome: Outcome) -> None:
        """Take in what came of it: tokens, the next state, perhaps the row's end."""
