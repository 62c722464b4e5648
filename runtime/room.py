"""The thread that owns an engine's core while many callers share it.

Calls come in through an inbox; the thread starts them, ticks the core as long as rows run, and hands out what
came of each tick. A call that is cancelled leaves at the next tick. If a tick fails, the room is dead: every
call ends in an error at once, and no new one is taken.
"""

import logging
import threading
from collections.abc import Callable, Sequence
from typing import Protocol

from ttc.errors import EngineDead, InputError, QueueFull, TtcError
from ttc.runtime.engine import Engine
from ttc.runtime.generation import Generation
from ttc.runtime.requests import Asked, AskedRow

__all__ = ["Guest", "Room"]

logger = logging.getLogger(__name__)


class Pace:
    """How fast rows end, to tell a refused caller when there may be room."""

    _SHORTEST, _LONGEST, _WEIGHT = 1.0, 60.0, 0.2

    def __init__(self) -> None:
        self._seconds: float | None = None
        self._last: float | None = None

    def ended(self, rows: int, now: float) -> None:
        """Take in that so many rows have ended now."""
        if self._last is not None:
            each = (now - self._last) / rows
            old = each if self._seconds is None else self._seconds
            self._seconds = old + self._WEIGHT * (each - old)
        self._last = now

    def seconds_for(self, rows: int) -> float:
        """Return in how many seconds so many rows may have ended."""
        return min(max((self._seconds or 0.0) * rows, self._SHORTEST), self._LONGEST)


class Guest(Protocol):
    """A caller's side of a call; all of it is called in the room's thread."""

    asked: Asked
    streams: bool

    def tell(self, generation: Generation) -> None:
        """Take what a tick brought; called after every tick, and once when all rows have ended."""

    def fail(self, error: TtcError) -> None:
        """End the call by this error."""


class Room:
    """Runs an engine for many callers.

    Attributes:
        engine: owned by the room's thread from now on.
        max_queued, max_queued_tokens: bounds on rows that wait, and on the tokens of their prompts.
        max_owner_queued: bound on the rows of one owner that wait; None for none.
        told: called when all guests have been told of a tick, or have failed.
        snapshot: the core after the last tick; may be read by anybody.
    """

    def __init__(
        self,
        engine: Engine,
        max_queued: int,
        max_queued_tokens: int | None,
        max_owner_queued: int | None = None,
        told: Callable[[], None] = lambda: None,
    ) -> None:
        self.told = told
        self.engine, self.max_queued, self.max_queued_tokens = engine, max_queued, max_queued_tokens
        self.max_owner_queued = max_owner_queued
        self.snapshot = engine.core.snapshot()
        self._pace = Pace()
        self._inbox: list[Guest] = []
        self._entering: list[Guest] = []  # between the inbox and the guests
        self._guests: dict[Guest, Generation] = {}
        self._wake = threading.Condition()
        self._stopping = self._abandoned = False
        self._dead: EngineDead | None = None
        self._heartbeat = engine.core.clock.now()
        engine.core.between_calls = self._let_in
        self._thread = threading.Thread(target=self._run, name="ttc-engine", daemon=True)
        self._thread.start()

    @property
    def alive(self) -> bool:
        """Whether new calls are taken."""
        return self._dead is None and not self._stopping and self._thread.is_alive()

    @property
    def overdue(self) -> float:
        """Seconds since the last tick while there is something to do, else 0."""
        busy = bool(self._inbox or self._guests)
        return self.engine.core.clock.now() - self._heartbeat if busy else 0.0

    def enter(self, guest: Guest) -> None:
        """Queue a call.

        Raises:
            QueueFull: too many rows, or too many prompt tokens, wait already.
            EngineDead: the engine failed or was closed.
            InputError: more rows than ever fit.
        """
        with self._wake:
            self.check()
            self._refuse_if_full(guest.asked.rows)
            if not self._inbox and not self._guests:
                self._heartbeat = self.engine.core.clock.now()
            self._inbox.append(guest)
            self._wake.notify()

    def nudge(self) -> None:
        """Let the thread look round, after a call was cancelled."""
        with self._wake:
            self._wake.notify()

    def close(self) -> None:
        """End every call and the engine; waits for the tick under way, but not for one that was abandoned."""
        with self._wake:
            self._stopping = True
            self._wake.notify()
        if not self._abandoned:
            self._thread.join()

    def abandon(self, error: EngineDead) -> None:
        """End every call by this error while the thread hangs in a tick; nothing more will come of it."""
        self._dead, self._abandoned = self._dead or error, True
        self._end_all(self._dead)

    def check(self) -> None:
        """Raise `EngineDead` if the engine failed or was closed."""
        if self._dead is not None:
            raise self._dead
        if self._stopping:
            raise EngineDead("the engine is closed; load the bundle again")

    def _refuse_if_full(self, rows: Sequence[AskedRow]) -> None:
        core, arrived = self.engine.core, [row for other in self._inbox for row in other.asked.rows]
        left = core.left_waiting([row.request for row in (*arrived, *rows)])
        if not left:
            return
        if len(rows) > self.max_queued + core.limits.rows:
            raise InputError(
                f"a call of {len(rows)} rows; at most {core.limits.rows} run and {self.max_queued} wait: "
                "split it, or load with a larger max_queued"
            )
        if len(left) > self.max_queued:
            raise QueueFull(
                f"{len(arrived) + core.waiting} requests wait already, at most {self.max_queued} may; "
                "ask again later",
                # When all that wait now have gone: who comes back before only asks in vain again.
                self._pace.seconds_for(len(left)),
            )
        owner = rows[0].request.owner
        own = sum(request.owner == owner for request in left)
        if self.max_owner_queued is not None and own > self.max_owner_queued:
            raise QueueFull(
                f"{own} requests of this key would wait, at most {self.max_owner_queued} may; "
                "ask again later",
                self._pace.seconds_for(own),
            )
        tokens = sum(len(request.prompt) for request in left)
        if self.max_queued_tokens is not None and tokens > self.max_queued_tokens:
            raise QueueFull(
                f"{tokens} prompt tokens would wait, at most {self.max_queued_tokens} may; ask again later",
                self._pace.seconds_for(1),
            )

    def _run(self) -> None:
        while True:
            with self._wake:
                while not self._inbox and not self._guests and not self._stopping:
                    self._wake.wait()
                stopping = self._stopping
            if stopping:
                self._end_all(EngineDead("the engine was closed while this was generated"))
                self.engine.close()
                return
            try:
                self._turn()
            except BaseException as fault:
                if self._abandoned:
                    return
                logger.exception("the engine failed")
                self._dead = EngineDead(f"the engine failed and serves no more: {fault}")
                self._end_all(self._dead)
                self.engine.close()
                return

    def _let_in(self) -> None:
        """Start the calls that have come."""
        if not self._inbox:
            return
        with self._wake:
            self._entering, self._inbox = self._inbox, []
        # Without holding what callers wait for: in a tick the engine is locked too.
        for guest in self._entering:
            self._guests[guest] = self.engine.enter(guest.asked, streams=guest.streams)
        self._entering = []

    def _turn(self) -> None:
        """Start calls, tick, and hand out what came of it."""
        self._let_in()
        with self.engine.lock:
            try:
                self.engine.core.tick()
            except TtcError as fault:
                # The backend refused, say for want of memory: the rows end, not the room.
                self.engine.core.fail_all(fault)
        if self._abandoned:
            return
        self._heartbeat = self.engine.core.clock.now()
        self.snapshot = self.engine.core.snapshot()
        for guest, generation in list(self._guests.items()):
            guest.tell(generation)
            if generation.done:
                self._pace.ended(len(guest.asked.rows), self._heartbeat)
                self._guests.pop(guest, None)
        self.told()

    def _end_all(self, error: TtcError) -> None:
        with self._wake:
            guests = list(dict.fromkeys((*self._guests, *self._entering, *self._inbox)))
            self._guests.clear()
            self._entering = []
            self._inbox.clear()
        for guest in guests:
            guest.fail(error)
        self.told()
