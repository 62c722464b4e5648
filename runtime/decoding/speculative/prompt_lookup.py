"""Prompt lookup: speculative decoding whose drafts are what followed the same few tokens before.

Speculation without a second model, for comparison with what the denoiser's drafts bring: the text is AR's
own, whatever was drafted. It pays where text repeats itself (quotations, code, records) and costs little
where it does not: without a match a round is an AR step (Saxena 2023, "Prompt lookup decoding").
"""

from collections.abc import Generator, Iterator, Sequence

from ttc.runtime.decoding.generation import Generation
from ttc.runtime.decoding.result import Event
from ttc.runtime.decoding.rows import Row
from ttc.runtime.decoding.speculative.speculate import speculate
from ttc.runtime.interface.state import ContextState

__all__ = ["PromptLookup", "look_up", "prompt_lookup"]

# The longest suffix looked for, and the most tokens drafted after it.
MAX_MATCH, MAX_DRAFT = 3, 10


def prompt_lookup(run: Generation) -> Iterator[Event]:
    """Generate AR's text, drafted from the prompt and the text so far."""
    return speculate(run, PromptLookup())


class PromptLookup:
    """Drafts by `look_up`, and learns nothing."""

    def propose(
        self, run: Generation, rows: Sequence[Row], state: ContextState
    ) -> Generator[Event, None, list[list[int]]]:
        """Return what followed every row's last tokens before. There is nothing to see on the way."""
        yield from ()
        room = state.capacity - int(state.lengths.max()) - 1
        return [look_up([*row.prompt, *row.tokens], _most_to_draft(run, row, room)) for row in rows]

    def observe(self, row: Row, drafted: int, accepted: int) -> None:
        """Learn nothing: what is found does not depend on what was accepted."""


def look_up(tokens: Sequence[int], most: int) -> list[int]:
    """Find the longest suffix, of at most `MAX_MATCH` tokens, that occurred earlier, and return up to `most`
    tokens that followed its latest occurrence; [] if there is none.
    """
    for length in range(min(MAX_MATCH, len(tokens) - 1), 0, -1):
        suffix = list(tokens[-length:])
        for start in range(len(tokens) - length - 1, -1, -1):
            if list(tokens[start : start + length]) == suffix:
                return list(tokens[start + length : start + length + most])
    return []


def _most_to_draft(run: Generation, row: Row, room: int) -> int:
    """Return the drafted tokens that can be of use; verification gives one more."""
    return max(0, min(MAX_DRAFT, run.options.max_new_tokens - len(row.tokens) - 1, room))
