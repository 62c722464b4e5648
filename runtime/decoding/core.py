"""The one place where tokens are made: a queue, rows that come and go, and a tick that moves them all.

A core knows neither threads nor text nor what a mode means: rows say what they need, a plan makes calls of
it, the device carries them out, and each row takes in what came of it. Whoever owns a core submits requests
and ticks until they have ended; at most one thread at a time.
"""

from collections import Counter
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, replace

from ttc.errors import DeadlineExceeded, TtcError
from ttc.runtime.decoding.clock import Clock
from ttc.runtime.decoding.device import Counts, Device
from ttc.runtime.decoding.plan import Call, CoreLimits, Policy, Seen, Waiting, advances
from ttc.runtime.decoding.prefix_cache import PrefixCache, PrefixStats
from ttc.runtime.decoding.queue import Queue
from ttc.runtime.decoding.request import RowRequest
from ttc.runtime.decoding.rows import Mode, Phase, Row
from ttc.runtime.decoding.seats import Seats
from ttc.runtime.decoding.work import Advance, Denoise, Due, Outcome, Read

__all__ = ["Core", "MakeMode", "Snapshot"]

# Makes the mode of a row that is about to start.
MakeMode = Callable[[Row], Mode]


@dataclass(frozen=True, slots=True)
class Snapshot:
    """A core between two ticks; anybody may read it.

    Attributes:
        running, waiting: rows that run, and requests in the queue.
        state_bytes: size of the states in which rows sit.
        spare_bytes: size of states in which nobody sits, and which are kept for those who come.
        prefixes: figures of the prefix cache; None where it is off.
        counts: what was asked of the backend so far.
        moves: rows that were copied to another place so far.
    """

    running: int
    waiting: int
    state_bytes: int
    spare_bytes: int
    prefixes: PrefixStats | None
    counts: Counts
    moves: int


class Core:
    """Decodes for all rows that are submitted to it.

    Attributes:
        limits: what is taken on at once.
        chunk: prompt tokens of one piece; pieces begin at its multiples.
        counts: what was asked of the backend so far.
        ended: called with every row once, when it has ended and its seat is free.
        between_calls: called after each call of a tick whose owners share calls; whoever owns the core may
            submit there what has come meanwhile.
    """

    def __init__(
        self,
        device: Device,
        make_mode: MakeMode,
        limits: CoreLimits,
        chunk: int,
        prefixes: PrefixCache | None = None,
        policy: Policy | None = None,
    ) -> None:
        self._device, self._make_mode, self.limits, self.chunk = device, make_mode, limits, chunk
        self._prefixes, self._policy = prefixes, policy or Policy()
        self._queue = Queue()
        # Rows that may have to leave before their end: by a deadline, or because somebody says so.
        self._leavers: dict[int, Row] = {}
        self._rows: dict[int, Row] = {}
        self._next_id = self._ticks = 0
        self.ended: Callable[[Row], None] = lambda row: None
        self.between_calls: Callable[[], None] = lambda: None

    @property
    def clock(self) -> Clock:
        """The clock of the device, which deadlines are counted on."""
        return self._device.clock

    @property
    def seats(self) -> Seats:
        """Which row sits where."""
        return self._device.seats

    @property
    def counts(self) -> Counts:
        """What was asked of the backend so far."""
        return self._device.counts

    @property
    def idle(self) -> bool:
        """Whether nothing waits or runs."""
        return not self._queue and not self._rows

    @property
    def rows(self) -> list[Row]:
        """The rows that run."""
        return list(self._rows.values())

    @property
    def running(self) -> int:
        """Number of rows that run."""
        return len(self._rows)

    @property
    def waiting(self) -> int:
        """Number of requests in the queue."""
        return len(self._queue)

    def left_waiting(self, further: Sequence[RowRequest]) -> list[RowRequest]:
        """Return those of the queue, and of further requests behind it, that could not start now."""
        requests = [row.request for row in self._queue.rows]
        requests += [request for request in further if not request.is_empty]
        running = [row.request for row in list(self._rows.values())]
        admitted = set(self._policy.admit(*_books(enumerate(requests), running), self.limits))
        return [request for i, request in enumerate(requests) if i not in admitted]

    def snapshot(self) -> Snapshot:
        """Return what is going on, to be read by others while the core goes on."""
        stats = None if self._prefixes is None else replace(self._prefixes.stats)
        seats = self.seats
        return Snapshot(
            len(self._rows),
            len(self._queue),
            seats.nbytes,
            seats.spare_bytes,
            stats,
            self.counts.copy(),
            seats.moves,
        )

    def submit(self, request: RowRequest) -> Row:
        """Queue a request; its row starts when there is room."""
        row = Row(self._next_id, request, submitted=self.clock.now())
        self._next_id += 1
        if request.is_empty:
            row.finish_reason, row.phase = "length", Phase.ENDED
            self.ended(row)
        else:
            self._queue.add(row)
            if request.cancels or request.deadline is not None:
                self._leavers[row.id] = row
        return row

    def tick(self) -> None:
        """Move every row on: those that must leave, those that may start, a denoise step, the context calls
        that it makes due.

        Where owners share calls, the tick of one who has many rows ends after the call under way when
        somebody comes of whom nothing runs; the rows that it left out are served in the next ones.
        """
        self._ticks += 1
        now = self.clock.now()
        for row in list(self._leavers.values()):
            self._leave_if_asked(row, now)
        free = self.limits.rows - len(self._rows)
        if self._queue and free > 0:
            queue = ((row.id, row.request) for row in self._queue.first(free))
            running = [row.request for row in self._rows.values()]
            self._start(self._policy.admit(*_books(queue, running), self.limits))
        self.seats.compact()
        moved: list[Row] = list(self._rows.values())
        seen: dict[int, Seen | None] = {}
        served: set[Row] = set()
        is_cut = False
        for stage in self._policy.stages:
            # What is due changes for rows of the stage before alone. A state whose rows are about to move
            # past what they verified has to stay where it is.
            fixed = Advance in {type(row.due(self.chunk)) for row in moved}
            if not fixed and (is_cut or stage is advances):
                continue
            for row in moved:
                seen[row.id] = self._see(row, may_grow=not fixed)
            calls = stage([see for see in seen.values() if see is not None], self.limits)
            moved = []
            for call in calls:
                moved += self._perform(call)
                # What was verified has to move, whoever comes.
                if stage is not advances and self._somebody_comes():
                    is_cut = True
                    break
            served |= set(moved)
        for row in served:
            row.served = self._ticks
        self._device.forget()

    def _somebody_comes(self) -> bool:
        """Let requests in that have come; return whether one may start at once of an owner of whom nothing
        runs.
        """
        if not self.limits.share_calls:
            return False
        first = self._next_id
        self.between_calls()
        if self._next_id == first or len(self._rows) >= self.limits.rows:
            return False
        owners = {row.request.owner for row in self._rows.values()}
        return any(row.id >= first and row.request.owner not in owners for row in self._queue.rows)

    def fail_all(self, error: TtcError) -> None:
        """End everything that waits or runs by this error; the core itself may be used again."""
        for row in self._rows.values():
            row.seat = None
        self.seats.close()
        for row in [*self._queue.rows, *self._rows.values()]:
            row.fail(error)
            self._end(row)
        self._device.forget()

    def cancel(self, row: Row) -> None:
        """End one row now."""
        if row.finish_reason is None:
            row.finish_reason = "cancelled"
            self._end(row)

    def _leave_if_asked(self, row: Row, now: float) -> None:
        deadline = row.request.deadline
        if any(cancel.cancelled for cancel in row.request.cancels):
            self.cancel(row)
        elif deadline is not None and now >= deadline:
            row.fail(
                DeadlineExceeded(
                    f"the deadline passed after {len(row.tokens)} of at most "
                    f"{row.request.max_new_tokens} tokens; allow more time, or ask for fewer tokens"
                )
            )
            self._end(row)

    def _start(self, ids: Iterable[int]) -> None:
        """Give rows a seat and a mode, and what the prefix cache knows of their prompts."""
        rows, now = [row for number in ids if (row := self._queue.take(number)) is not None], self.clock.now()
        self._rows |= {row.id: row for row in rows}
        first = [self._first_need(row) for row in rows]
        self.seats.expect(first)
        for row, tokens in zip(rows, first, strict=True):
            row.seat = self.seats.join(tokens)
            row.mode = self._make_mode(row)
            row.phase, row.started = Phase.PROMPT, now
            if self._prefixes is not None:
                self._prefixes.begin(row.id, row.request.prompt)
            if not row.mode.prompt(row):
                row.start(None)
                self._after(row)

    def _first_need(self, row: Row) -> int:
        """Tokens that a row's first seat holds: the prompt and a block, within what it may come to."""
        request = row.request
        return min(len(request.prompt) + request.options.block_size, request.most_tokens)

    def _see(self, row: Row, *, may_grow: bool) -> Seen | None:
        """Return what planning sees of a row, and make room for what it needs next; None where it has ended,
        or waits for what another row is reading, or for room that cannot be made now.
        """
        if self._prefixes is not None and row.phase is Phase.PROMPT and self._waits_or_skips(row):
            return None
        due, seat, width = row.due(self.chunk), row.seat, 0
        if due is None:
            return None
        assert seat is not None, "a row that runs sits"
        if isinstance(due, Read):
            needed = row.length + len(due.tokens)
            if needed > seat.tokens:
                if not may_grow and not self.seats.holds(seat, needed):
                    return None
                self.seats.grow(seat, needed)
            width = self._device.call_length(len(due.tokens))
        elif isinstance(due, Denoise):
            width = len(due.block)
        return Seen(row.id, seat.state, seat.index, width, due, row.request.owner, row.served)

    def _waits_or_skips(self, row: Row) -> bool:
        """Before a row reads its prompt: take what is known of it, or wait as long as an older row reads what
        both begin with.

        Returns whether there is nothing to read for the row now.
        """
        assert self._prefixes is not None, "asked for with a cache only"
        assert row.mode is not None, "a row that runs has a mode"
        if row.looked_up or row.request.options.prompt_logprobs:
            return False  # for the latter all logits are wanted, and those are not kept
        prompt = row.mode.prompt(row)
        # The logits of the last token are not kept.
        tokens = len(prompt) - row.mode.samples_after_prompt
        for older in self._rows.values():
            if older is row:
                break
            if older.phase is Phase.PROMPT and self._prefixes.is_brought(
                row.id, tokens, older.id, older.length
            ):
                return True
        assert row.seat is not None, "a row that runs sits"
        row.skip(self._prefixes.restore(row.id, tokens, self.seats, row.seat))
        if row.length == len(prompt):
            row.start(None)
            self._after(row)
            return row.finish_reason is not None
        return False

    def _perform(self, call: Call) -> list[Row]:
        """Carry out one call; every row takes in its part, and leaves if that was its end.

        Returns the call's rows.
        """
        rows = [self._rows[number] for number in call.ids]
        dues = [row.due(self.chunk) for row in rows]
        first, *later = self._device.run(call, rows, dues)
        for row, due in zip(rows, dues, strict=True):
            assert due is not None, "planned for"
            self._settle(row, due, first[row.id])
        for outcomes in later:
            for row in rows:
                # Of several steps taken at once, a row takes those up to the end of its block.
                due = row.due(self.chunk)
                if due is not None and type(due) is call.kind:
                    self._settle(row, due, outcomes[row.id])
        return rows

    def _settle(self, row: Row, due: Due, outcome: Outcome) -> None:
        """Let a row take in what came of its part of a call."""
        cache, reads_prompt = self._prefixes, isinstance(due, Read) and due.prompt
        if cache is not None and isinstance(due, Read) and due.prompt:
            assert row.seat is not None, "a row that runs sits"
            cache.collect(row.id, row.length + len(due.tokens), self.seats, row.seat)
        row.settle(due, outcome)
        if cache is not None and reads_prompt and row.phase is Phase.RUNNING and row.error is None:
            cache.publish(row.id)
        self._after(row)

    def _after(self, row: Row) -> None:
        if row.finish_reason is not None:
            self._end(row)

    def _end(self, row: Row) -> None:
        """Take the one way out: give the seat back, tell of the row."""
        self._queue.take(row.id)
        self._leavers.pop(row.id, None)
        self._rows.pop(row.id, None)
        if self._prefixes is not None:
            self._prefixes.forget(row.id)
        row.phase = Phase.ENDED
        if row.seat is not None:
            self.seats.leave(row.seat)
            row.seat = None
        self.ended(row)


def _books(
    queue: Iterable[tuple[int, RowRequest]], running: Sequence[RowRequest]
) -> tuple[Iterable[Waiting], int, int]:
    """Return what admission goes by: the queue as it sees it, how many rows run, and the tokens that those
    may come to.
    """
    owners = Counter(request.owner for request in running)
    waiting = (
        Waiting(number, each.most_tokens, each.priority, each.owner, owners[each.owner])
        for number, each in queue
    )
    return waiting, len(running), sum(request.most_tokens for request in running)
