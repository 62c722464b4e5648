"""Other rules of scheduling, to be tried against the core's own: parts for a `Policy`.

They choose what the core's own rules are shown; the calls stay theirs.
"""

from collections.abc import Sequence

from ttc.runtime.decoding.plan import (
    Call,
    CoreLimits,
    Policy,
    Seen,
    advances,
    denoises,
    reads,
)
from ttc.runtime.decoding.work import Denoise, Read

__all__ = ["extend_when"]


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


def _is_block(row: Seen) -> bool:
    due = row.due
    return isinstance(due, Read) and not due.prompt and due.sampling is None
