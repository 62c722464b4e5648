"""What a tick does, as pure functions: the same view gives the same calls.

A *call* is one call of the backend for several rows. Rows share one only where nothing of it differs but
their own numbers: the same state, the same width, the same kind of result. Widths are never mixed, because a
row computed in a wider call differs in its last bits, and with them, now and then, in a token.
"""

from collections import Counter
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
        owner_rows: most rows of one owner that run at once; None for no bound.
        share_calls: whether owners share the calls too, not only the seats: in a tick nobody's rows are
            served in larger number than those of the owner with the fewest. For devices on which a call
            costs as much as it has rows.
        extend_when: full blocks are read when so many rows wait with one, or when nobody fills one any more;
            None for a quarter of the rows that run. More than one is for devices on which a call costs about
            the same for any rows.
    """

    rows: int
    tokens: int | None
    prompt_tokens: int
    owner_rows: int | None = None
    share_calls: bool = False
    extend_when: int | None = 1


@dataclass(frozen=True, slots=True)
class Waiting:
    """A request in the queue.

    Attributes:
        id: its number; lower ones came first.
        tokens: the most that it may come to hold.
        priority: higher ones start first.
        owner: whose it is; owners share alike.
        owner_running: rows of this owner that run.
    """

    id: int
    tokens: int
    priority: int = 0
    owner: str = ""
    owner_running: int = 0


@dataclass(slots=True)
class Seen:
    """A running row as planning sees it. Nobody changes it; it is not frozen, because every row makes several
    in every tick, which would take three times as long.

    Attributes:
        id: the row's number; lower ones came first.
        state: number of the state in which the row sits.
        index: the row's number in that state.
        width: tokens that its call really computes.
        due: what it needs next; None when it has ended.
        owner: whose it is.
        served: number of the last tick before this one in which a call was about it; 0 for none.
    """

    id: int
    state: int
    index: int
    width: int
    due: Due | None
    owner: str = ""
    served: int = 0


@dataclass(frozen=True, slots=True)
class Call:
    """One backend call for these rows, in the order of their places in the state."""

    kind: type[Due]
    state: int
    ids: tuple[int, ...]


def admit(
    queue: Iterable[Waiting], running_rows: int, running_tokens: int, limits: CoreLimits
) -> tuple[int, ...]:
    """Return the numbers of the requests that may start now, in the order in which they start.

    The next one is of the highest priority, and there of the owner with the fewest rows; an owner's own start
    in the order of the queue. Every row's worst case is counted, so that nothing that runs has to be put off
    later. Nobody overtakes the next one: if it is large, it waits until there is room for it, and all others
    wait with it; only an owner who has as many rows as one may have is passed over. A request alone is always
    let in.
    """
    if running_rows >= limits.rows:
        return ()
    # By owner and priority, the first one last, where it is taken from.
    lines: dict[tuple[str, int], list[tuple[int, Waiting]]] = {}
    for place, request in reversed(list(enumerate(queue))):
        lines.setdefault((request.owner, request.priority), []).append((place, request))
    rows = {owner: line[0][1].owner_running for (owner, _), line in lines.items()}
    admitted: list[int] = []
    while running_rows < limits.rows:
        heads = [
            line[-1] for (owner, _), line in lines.items() if line and _may_have_more(rows[owner], limits)
        ]
        if not heads:
            break
        _, chosen = min(heads, key=lambda head: (-head[1].priority, rows[head[1].owner], head[0]))
        if running_rows and limits.tokens is not None and running_tokens + chosen.tokens > limits.tokens:
            break
        lines[chosen.owner, chosen.priority].pop()
        admitted.append(chosen.id)
        rows[chosen.owner] += 1
        running_rows, running_tokens = running_rows + 1, running_tokens + chosen.tokens
    return tuple(admitted)


def _may_have_more(rows: int, limits: CoreLimits) -> bool:
    return limits.owner_rows is None or rows < limits.owner_rows


def denoises(view: Sequence[Seen], limits: CoreLimits) -> list[Call]:
    """Return one denoise step for every row that is filling a block."""
    served = _shared(view, limits)
    return _grouped((row for row in served if isinstance(row.due, Denoise)), _denoise_key)


def reads(view: Sequence[Seen], limits: CoreLimits) -> list[Call]:
    """Return the context calls: full blocks, if enough of them wait, verifications and AR steps, and a share
    of the prompts: owners take turns, and of one owner the oldest goes first.
    """
    wanted, prompt_tokens, full = [], 0, False
    served = _shared(view, limits)
    put_off = _too_few_blocks(served, limits)
    for row in _in_turns(served):
        if not isinstance(row.due, Read) or (put_off and _is_block(row.due)):
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


def _shared(view: Sequence[Seen], limits: CoreLimits) -> Sequence[Seen]:
    """Return the rows that are served in this tick: of every owner those that have waited longest for a call,
    of all as many as the owner with the fewest has.

    So an owner's rows grow alike. Were it the oldest ones, one row would go on alone, and with its length its
    calls would grow dearer for everybody.
    """
    if not limits.share_calls:
        return view
    counts = Counter(row.owner for row in view)
    most = min(counts.values(), default=0)
    served: Counter[str] = Counter()
    ids = set()
    for row in sorted(view, key=lambda row: (row.served, row.id)):
        served[row.owner] += 1
        if served[row.owner] <= most:
            ids.add(row.id)
    return [row for row in view if row.id in ids]


def _too_few_blocks(view: Sequence[Seen], limits: CoreLimits) -> bool:
    """Return whether full blocks are put off until more wait."""
    enough = max(1, len(view) // 4) if limits.extend_when is None else limits.extend_when
    if enough == 1:
        return False
    waiting = sum(isinstance(row.due, Read) and _is_block(row.due) for row in view)
    return waiting < enough and any(isinstance(row.due, Denoise) for row in view)


def _is_block(due: Read) -> bool:
    """Return whether this reads a full block: nothing is chosen from what it gives."""
    return not due.prompt and due.sampling is None


def _in_turns(view: Sequence[Seen]) -> list[Seen]:
    """Return the rows so that every owner's first prompt comes before anybody's second."""
    if len(view) < 2:
        return list(view)
    by_age = sorted(view, key=lambda row: row.id)
    if len({row.owner for row in view}) < 2:
        return by_age
    turns: Counter[str] = Counter()
    order = []
    for row in by_age:
        order.append((turns[row.owner], row.id, row))
        turns[row.owner] += isinstance(row.due, Read) and row.due.prompt
    return [row for _, _, row in sorted(order, key=lambda entry: entry[:2])]


def _denoise_key(row: Seen) -> tuple[object, ...]:
    assert isinstance(row.due, Denoise)
    return row.width, row.due.step is None


def _read_key(row: Seen) -> tuple[object, ...]:
    assert isinstance(row.due, Read)
    due = row.due
    return row.width, due.sampling is None, bool(due.draft), due.commit == 0, bool(due.targets)


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
