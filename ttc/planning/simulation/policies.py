"""Other rules of scheduling, to be tried against the core's own: parts for a `Policy`.

They choose among what the core's own rules are shown; calls and admissions stay theirs.
"""

from collections import Counter
from collections.abc import Callable, Iterable, Sequence

from ttc.runtime.decoding.plan import (
    Call,
    CoreLimits,
    Policy,
    Seen,
    Waiting,
    admit,
    advances,
    denoises,
    reads,
)
from ttc.runtime.decoding.work import Denoise, Read

__all__ = ["extend_when", "in_order", "keys_in_turn"]

Order = Callable[[Sequence[Waiting]], Sequence[Waiting]]


def extend_when(count: int) -> Policy:
    """Read finished blocks when so many rows wait with one, or when no row fills one any more.

    With 1 this is the core's own policy.
    """

    def stage(view: Sequence[Seen], limits: CoreLimits) -> list[Call]:
        finished = {row.id for row in view if _is_block(row)}
        filling = any(isinstance(row.due, Denoise) for row in view)
        if len(finished) < count and filling:
            view = [row for row in view if row.id not in finished]
        return reads(view, limits)

    return Policy(stages=(denoises, stage, advances))


def in_order(order: Order) -> Policy:
    """Admit by another order than that of arrival."""

    def admit_in_order(
        queue: Iterable[Waiting], running_rows: int, running_tokens: int, limits: CoreLimits
    ) -> tuple[int, ...]:
        return admit(order(list(queue)), running_rows, running_tokens, limits)

    return Policy(admit=admit_in_order)


def keys_in_turn(key_of: Callable[[int], str]) -> Order:
    """Order so that the keys take turns: the oldest request of each, then the second oldest, and so on.

    key_of: number of a request → who asks.
    """

    def order(queue: Sequence[Waiting]) -> Sequence[Waiting]:
        before: Counter[str] = Counter()
        turns = []
        for waiting in queue:
            key = key_of(waiting.id)
            turns.append((before[key], waiting.id, waiting))
            before[key] += 1
        return [waiting for _, _, waiting in sorted(turns, key=lambda turn: turn[:2])]

    return order


def _is_block(row: Seen) -> bool:
    due = row.due
    return isinstance(due, Read) and not due.prompt and due.sampling is None
