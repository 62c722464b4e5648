"""What a tick does, as pure functions: the same view gives the same calls.

A *call* is one call of the backend for several rows. Rows share one only where nothing of it differs but
their own numbers: the same state, the same width, the same kind of result. Widths are never mixed, because a
row computed in a wider call differs in its last bits, and with them, now and then, in a token.
"""

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass

from ttc.runtime.decoding.work import Advance, Denoise, Due, Read

__all__ = [
    "STAGES",
    "Call",
    "CoreLimits",
    "Policy",
    "Seen",
    "Waiting",
    "admit",
    "advances",
    "denoises",
    "reads",
]


@dataclass(frozen=True, slots=True)
class CoreLimits:
    """What a core takes on.

    Attributes:
        rows: most rows that run at once.
        tokens: most tokens that running rows may come to hold together; None for no bound.
        prompt_tokens: prompt tokens read in one tick; the first piece is read whatever its size.
    """

    rows: int
    tokens: int | None
    prompt_tokens: int


@dataclass(frozen=True, slots=True)
class Waiting:
    """A request in the queue: its number, and the most tokens that it may come to hold."""

    id: int
    tokens: int


@dataclass(frozen=True, slots=True)
class Seen:
    """A running row as planning sees it.

    Attributes:
        id: the row's number; lower ones came first.
        state: capacity of the state in which the row sits, which tells the state.
        index: the row's number in that state.
        width: tokens that its call really computes.
        due: what it needs next; None when it has ended.
    """

    id: int
    state: int
    index: int
    width: int
    due: Due | None


@dataclass(frozen=True, slots=True)
class Call:
    """One backend call for these rows, in the order of their places in the state."""

    kind: type[Due]
    state: int
    ids: tuple[int, ...]


def admit(
    queue: Iterable[Waiting], running_rows: int, running_tokens: int, limits: CoreLimits
) -> tuple[int, ...]:
    """Return the numbers of the requests that may start now, in order of arrival.

    Every row's worst case is counted, so that nothing that runs has to be put off later. Nobody overtakes: a
    large request at the head waits until there is room for it, and all others wait with it. A request alone
    is always let in.
    """
    admitted = []
    for request in queue:
        fits = limits.tokens is None or running_tokens + request.tokens <= limits.tokens
        if running_rows >= limits.rows or (running_rows and not fits):
            break
        admitted.append(request.id)
        running_rows, running_tokens = running_rows + 1, running_tokens + request.tokens
    return tuple(admitted)


def denoises(view: Sequence[Seen], limits: CoreLimits) -> list[Call]:
    """Return one denoise step for every row that is filling a block."""
    return _grouped((row for row in view if isinstance(row.due, Denoise)), _denoise_key)


def reads(view: Sequence[Seen], limits: CoreLimits) -> list[Call]:
    """Return the context calls: all finished blocks, verifications and AR steps, and a share of the prompts,
    the oldest first.
    """
    wanted, prompt_tokens, full = [], 0, False
    for row in sorted(view, key=lambda row: row.id):
        if not isinstance(row.due, Read):
            continue
        if row.due.prompt:
            # One piece is always read, so that prompts go on however small the share; nobody overtakes.
            full = full or (prompt_tokens > 0 and prompt_tokens + row.width > limits.prompt_tokens)
            if full:
                continue
            prompt_tokens += row.width
        wanted.append(row)
    return _grouped(wanted, _read_key)


def advances(view: Sequence[Seen], limits: CoreLimits) -> list[Call]:
    """Return the moves of states past what was just verified: one for each verification call."""
    return _grouped((row for row in view if isinstance(row.due, Advance)), _advance_key)


Stage = Callable[[Sequence[Seen], CoreLimits], list[Call]]
# A block that was just filled is read in the same tick.
STAGES: tuple[Stage, ...] = (denoises, reads, advances)


@dataclass(frozen=True, slots=True)
class Policy:
    """What a tick goes by.

    Attributes:
        admit: which requests start: (queue, running rows, tokens they may come to hold, limits) → numbers.
        stages: which calls are made, one stage after the other: view → calls.
    """

    admit: Callable[[Iterable[Waiting], int, int, CoreLimits], tuple[int, ...]] = admit
    stages: tuple[Stage, ...] = STAGES


def _denoise_key(row: Seen) -> tuple[object, ...]:
    assert isinstance(row.due, Denoise)
    return row.width, row.due.step is None


def _read_key(row: Seen) -> tuple[object, ...]:
    assert isinstance(row.due, Read)
    due = row.due
    return row.width, due.sampling is None, bool(due.draft), due.commit == 0


def _advance_key(row: Seen) -> tuple[object, ...]:
    assert isinstance(row.due, Advance)
    return (row.due.call,)


def _grouped(rows: Iterable[Seen], key: Callable[[Seen], tuple[object, ...]]) -> list[Call]:
    groups: dict[tuple[object, ...], list[Seen]] = {}
    for row in rows:
        groups.setdefault((row.state, *key(row)), []).append(row)
    return [
        Call(
            type(group[0].due), group[0].state, tuple(row.id for row in sorted(group, key=lambda r: r.index))
        )
        for group in groups.values()
        if group[0].due is not None
    ]
