"""Arrivals into a core, a tick after the other, until everybody has his answer.

The same loop drives a simulated core and a real one: they differ in the device, and in what waiting means.
"""

from collections.abc import Callable
from dataclasses import dataclass, field

from ttc.planning.simulation.arrivals import Load, Visit
from ttc.runtime.decoding.core import Core
from ttc.runtime.decoding.rows import Row

__all__ = ["Served", "Span", "drive"]


@dataclass(slots=True)
class Served:
    """One request and what became of it; times in seconds, as a client sees them: at the ends of ticks.

    Attributes:
        began: when the first tokens were there; None where there came none.
        ended: when the last ones were.
        tokens, nfe: new tokens and denoiser evaluations.
        error: what it ended by, if not by its answer.
    """

    visit: Visit
    began: float | None = None
    ended: float = 0.0
    tokens: int = 0
    nfe: int = 0
    error: str | None = None


@dataclass(slots=True)
class Span:
    """What went by.

    Attributes:
        served: requests in the order of their ends.
        seconds: until the last of them ended.
        last_arrival, backlog: when the last request came, and how many were waiting then.
        ticks: how many there were.
        row_seconds, queue_seconds: rows in use and requests waiting, summed over time.
        most_rows, most_queue: most of each.
    """

    served: list[Served] = field(default_factory=list)
    seconds: float = 0.0
    last_arrival: float = 0.0
    backlog: int = 0
    ticks: int = 0
    row_seconds: float = 0.0
    queue_seconds: float = 0.0
    most_rows: int = 0
    most_queue: int = 0


def drive(core: Core, load: Load, submit: Callable[[Visit], Row], wait: Callable[[float], None]) -> Span:
    """Serve a load; return what went by.

    Args:
        core: idle, and used by nobody else meanwhile.
        load: the requests.
        submit: gives one to the core.
        wait: lets the core's clock come to a time, while nothing is to be done.
    """
    span, start, clock = Span(), core.clock.now(), core.clock
    open_rows: dict[Row, Served] = {}
    without_tokens: set[Row] = set()
    ended: list[Row] = []
    core.ended = ended.append
    while True:
        now = clock.now() - start
        for visit in load.take(now):
            span.last_arrival, served = visit.at, Served(visit)
            row = submit(visit)
            open_rows[row] = served
            without_tokens.add(row)
        if core.idle and not ended:
            later = load.next_at()
            if later is None:
                break
            wait(start + later)
            continue
        waiting = core.waiting
        core.tick()
        after = clock.now() - start
        rows = core.running + sum(row.context_calls > 0 for row in ended)
        span.ticks += 1
        span.row_seconds += rows * (after - now)
        span.queue_seconds += core.waiting * (after - now)
        span.most_rows, span.most_queue = max(span.most_rows, rows), max(span.most_queue, waiting)
        for row in (*core.rows, *ended):
            if row.tokens and row in without_tokens:
                without_tokens.discard(row)
                open_rows[row].began = after
        for row in ended:
            without_tokens.discard(row)
            _end(row, served := open_rows.pop(row), after)
            span.served.append(served)
            load.ended(served.visit, after)
        ended.clear()
        if load.next_at() is not None:
            span.backlog = core.waiting
    span.seconds = max((served.ended for served in span.served), default=0.0)
    return span


def _end(row: Row, served: Served, now: float) -> None:
    served.ended, served.tokens, served.nfe = now, len(row.tokens), sum(row.nfe_per_block)
    served.error = None if row.error is None else str(row.error)
