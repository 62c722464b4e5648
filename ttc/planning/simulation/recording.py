"""The calls of a core, real or simulated, tick by tick; and a recorded load to be replayed.

A record of what the rows did (commits of every step, drafts accepted, tokens of the answer) and of what every
call took is all that a simulation needs to make the same calls again.
"""

from collections import defaultdict
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from ttc.errors import InputError
from ttc.planning.simulation.costs import CallShape
from ttc.planning.simulation.device import shape_of
from ttc.runtime.decoding.clock import Clock, VirtualClock
from ttc.runtime.decoding.device import Counts, Device
from ttc.runtime.decoding.plan import Call
from ttc.runtime.decoding.rows import Row
from ttc.runtime.decoding.seats import Seats
from ttc.runtime.decoding.work import Denoised, Outcome, Read, Sampled

__all__ = ["CallRecord", "Recorded", "RecordedCosts", "Recorder"]

_NEVER = 2**31


@dataclass(frozen=True, slots=True)
class CallRecord:
    """One call: in which tick, of which rows, what it was and how long it took."""

    tick: int
    ids: tuple[int, ...]
    shape: CallShape
    seconds: float


@dataclass(slots=True)
class Recorded:
    """What one row did; a behaviour for a simulated row."""

    answer_tokens: int = _NEVER
    committed: dict[tuple[int, int], int] = field(default_factory=dict)
    accepted: list[int] = field(default_factory=list)
    _asked: int = 0

    def commits(self, block: int, step: int, masked: int, left: int) -> int:
        if (block, step) not in self.committed:
            raise InputError(f"step {step} of block {block} was not recorded; record the whole load")
        return self.committed[block, step]

    def accepts(self, drafted: int) -> int:
        if self._asked == len(self.accepted):
            raise InputError(f"only {self._asked} drafts were recorded; record the whole load")
        self._asked += 1
        return self.accepted[self._asked - 1]


class Recorder:
    """A device that passes everything on to another, and writes down what came of it.

    Attributes:
        calls: in order.
        rows: row number → what it did so far.
        ticks: (rows, seconds) of every tick but the first: from the end of the one before, without its calls.
    """

    def __init__(self, inner: Device, clock: VirtualClock | None = None) -> None:
        """clock: one that runs by what the calls take, and by nothing else; None for the other device's."""
        self._inner, self._virtual = inner, clock
        self.clock: Clock = clock or inner.clock
        self.calls: list[CallRecord] = []
        self.rows: defaultdict[int, Recorded] = defaultdict(Recorded)
        self.seats: Seats = inner.seats
        self.counts: Counts = inner.counts
        self.ticks: list[tuple[int, float]] = []
        self._tick = self._rows_in_tick = 0
        self._last_end: float | None = None
        self._in_calls = 0.0

    def call_length(self, length: int) -> int:
        return self._inner.call_length(length)

    def run(self, call: Call, rows: Sequence[Row], dues: Sequence[Any]) -> Sequence[Mapping[int, Outcome]]:
        # In the first call of a tick all of its rows still sit.
        rows_in_use = self.seats.in_use
        started = self._inner.clock.now()
        outcomes = self._inner.run(call, rows, dues)
        seconds = self._inner.clock.now() - started
        self._in_calls += seconds
        self._rows_in_tick = self._rows_in_tick or rows_in_use
        if self._virtual is not None:
            self._virtual.advance(seconds)
        capacity = self.seats.state(call.state).capacity
        shape = shape_of(call, dues, self.call_length, capacity)
        self.calls.append(CallRecord(self._tick, call.ids, shape, seconds))
        for row, due in zip(rows, dues, strict=True):
            for step, outcome in enumerate(each[row.id] for each in outcomes):
                self._note(row, due, outcome, step)
        return outcomes

    def forget(self) -> None:
        self._inner.forget()
        now = self._inner.clock.now()
        if self._last_end is not None:
            self.ticks.append((self._rows_in_tick, now - self._last_end - self._in_calls))
        self._last_end, self._in_calls, self._rows_in_tick = now, 0.0, 0
        self._tick += 1

    def close(self, rows: Sequence[Row]) -> dict[int, Recorded]:
        """Take in the ends of all rows; return what every one did."""
        for row in rows:
            did = self.rows[row.id]
            if row.finish_reason in ("eos", "stop"):
                did.answer_tokens = len(row.tokens)
        return dict(self.rows)

    def _note(self, row: Row, due: Any, outcome: Outcome, ahead: int) -> None:
        """ahead: of several steps taken at once, the number of this one."""
        if isinstance(outcome, Denoised):
            block, step = len(row.nfe_per_block) - 1, row.nfe_per_block[-1] + ahead
            before = round(due.t * len(due.block)) - sum(
                self.rows[row.id].committed.get((block, earlier), 0)
                for earlier in range(row.nfe_per_block[-1], step)
            )
            self.rows[row.id].committed[block, step] = before - outcome.masked
        elif isinstance(outcome, Sampled) and isinstance(due, Read) and due.draft:
            self.rows[row.id].accepted.append(outcome.accepted)


class RecordedCosts:
    """The seconds of recorded calls, one after the other."""

    def __init__(self, calls: Sequence[CallRecord]) -> None:
        self._seconds: Iterator[float] = iter([call.seconds for call in calls])

    def call(self, shape: CallShape) -> float:
        """Return what the next recorded call took."""
        seconds = next(self._seconds, None)
        if seconds is None:
            raise InputError(f"a call more than were recorded: {shape}")
        return seconds

    def move(self, capacity: int) -> float:
        return 0.0

    def tick(self, rows: int) -> float:
        return 0.0
