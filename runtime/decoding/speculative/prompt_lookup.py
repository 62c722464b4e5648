"""Prompt lookup: what stood behind the same few tokens before is the draft, and the context tower verifies
it.

Speculation without a second model, for comparison with what the denoiser's drafts bring: the text is AR's
own, whatever was drafted. It pays where text repeats itself (quotations, code, records) and costs little
where it does not: without a match a round is an AR step.
"""

from collections.abc import Iterator, Sequence

from ttc.runtime.decoding.loop import Stopwatch, drop_finished, prefill
from ttc.runtime.decoding.options import CheckedOptions
from ttc.runtime.decoding.result import Event
from ttc.runtime.decoding.rows import Row
from ttc.runtime.decoding.speculative.verify import verify
from ttc.runtime.interface.backend import Backend

__all__ = ["look_up", "speculate_from_prompt"]

# The longest run of last tokens looked for, and the most tokens drafted behind it.
MAX_MATCH, MAX_DRAFT = 3, 10


def look_up(tokens: Sequence[int], most: int) -> list[int]:
    """Up to `most` tokens that followed the latest earlier place of the longest ending that has one; [] if
    none has.
    """
    for length in range(min(MAX_MATCH, len(tokens) - 1), 0, -1):
        ending = list(tokens[-length:])
        for start in range(len(tokens) - length - 1, -1, -1):
            if list(tokens[start : start + length]) == ending:
                return list(tokens[start + length : start + length + most])
    return []


def speculate_from_prompt(
    backend: Backend,
    timed: Stopwatch,
    rows: Sequence[Row],
    options: CheckedOptions,
    capacity: int,
    chunk: int,
) -> Iterator[Event]:
    """Look up, verify, commit, until every row has ended. One event per round and row; round 0 is the
    prompt's next token.
    """
    state, tokens = prefill(backend, timed, rows, [row.prompt for row in rows], capacity, chunk, options)
    active, rounds = list(rows), 0
    for row, token in zip(active, tokens.tolist(), strict=True):
        yield _settled(row, [], token, 0, rounds, options)
    state, active, _ = drop_finished(backend, timed, state, active)
    while active:
        rounds += 1
        room = state.capacity - int(state.lengths.max()) - 1
        drafts = [look_up([*row.prompt, *row.tokens], _most(row, options, room)) for row in active]
        verdict = verify(backend, timed, active, drafts, options, state)
        for row, draft, accepted, token in zip(
            active, drafts, verdict.accepted.tolist(), verdict.bonus_ids.tolist(), strict=True
        ):
            yield _settled(row, draft, token, accepted, rounds, options)
        state, active, _ = drop_finished(backend, timed, state, active)


def _most(row: Row, options: CheckedOptions, room: int) -> int:
    """Drafted tokens that can be of use; verification gives one more."""
    return max(0, min(MAX_DRAFT, options.max_new_tokens - len(row.tokens) - 1, room))


def _settled(
    row: Row, draft: list[int], token: int, accepted: int, rounds: int, options: CheckedOptions
) -> Event:
    taken = tuple(row.extend([*draft[:accepted], token], options))
    return Event(
        row.index,
        rounds,
        0,
        taken,
        (False,) * len(taken),
        None,
        committed=True,
        text=None,
        rejected=tuple(draft[accepted:]),
    )
