"""Prompt lookup: what followed the same few tokens before is the draft.

Speculation without a second model, for comparison with what the denoiser's drafts bring. It pays where text
repeats itself (quotations, code, records) and costs little where it does not: without a match a round is an
AR step.
"""

from collections.abc import Sequence
from dataclasses import dataclass

from ttc.runtime.decoding.modes.speculative import Draft
from ttc.runtime.decoding.rows import Row

__all__ = ["LookedUp", "look_up"]

# The longest suffix looked for, and the most tokens drafted after it.
MAX_MATCH, MAX_DRAFT = 3, 10


def look_up(tokens: Sequence[int], most: int) -> list[int]:
    """Find the longest suffix (at most `MAX_MATCH` tokens) that occurred earlier, and return up to `most`
    tokens that followed its latest occurrence; [] if there is none.
    """
    for length in range(min(MAX_MATCH, len(tokens) - 1), 0, -1):
        ending = list(tokens[-length:])
        for start in range(len(tokens) - length - 1, -1, -1):
            if list(tokens[start : start + length]) == ending:
                return list(tokens[start + length : start + length + most])
    return []


@dataclass(frozen=True, slots=True)
class _Found:
    tokens: tuple[int, ...]
    filling: None = None


class LookedUp:
    """Drafts out of the row's own tokens. `room`: most tokens that a row may hold."""

    def __init__(self, room: int) -> None:
        self._room = room

    def propose(self, row: Row) -> Draft:
        wanted = row.request.max_new_tokens - len(row.tokens) - 1
        most = max(0, min(MAX_DRAFT, wanted, self._room - row.length - 1))
        return _Found(tuple(look_up([*row.request.prompt, *row.tokens], most)))

    def observe(self, row: Row, draft: Draft, accepted: int) -> None:
        """Learn nothing."""
