"""The thread that owns an engine's core while many callers share it.

Calls come in through an inbox; the thread starts them, ticks the core as long as rows run, and hands out what
came of each tick. It takes whole ticks only, so a call that is cancelled leaves at the next one. If a tick
fails, the room is dead: every call ends in an error at once, and no new one is taken.
"""

import logging
import threading
from collections.abc import Sequence
from typing import Protocol

from ttc.errors import EngineDead, InputError, QueueFull, TtcError
from ttc.runtime.engine import Engine
from ttc.runtime.generation import Generation
from ttc.runtime.requests import Asked, AskedRow

__all__ = ["Guest", "Room"]

logger = logging.getLogger(__name__)
# Seconds after which a refused caller may find room, as far as nobody knows better.
_RETRY_AFTER = 1.0


class Guest(Protocol):
    """A caller's side of a call; all of it is called in the room's thread."""

    asked: Asked
    streams: bool

    def tell(self, generation: Generation) -> None:
        """Take what a tick brought; asked after every tick, and once when all rows have ended."""

    def fail(self, error: TtcError) -> None:
        """End the call by this error."""


class Room:
    """Runs an engine for many callers.

    Attributes:
        engine: owned by the room's thread from now on.
        max_queued, max_queued_tokens: bounds on rows that wait, and on the tokens of their prompts.
    """

    def __init__(self, engine: Engine, max_queued: int, max_queued_tokens: int | None) -> None:
        self.engine, self.max_queued, self.max_queued_tokens = engine, max_queued, max_queued_tokens
        self._inbox: list[Guest] = []
        self._guests: dict[Guest, Generation] = {}
        self._wake = threading.Condition()
        self._stopping = False
        self._dead: EngineDead | None = None
        self.heartbeat = engine.core.clock.now()
        self._thread = threading.Thread(target=self._run, name="ttc-engine", daemon=True)
        self._thread.start()

    @property
    def alive(self) -> bool:
        """Whether new calls are taken."""
        return self._dead is None and not self._stopping and self._thread.is_alive()

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
            self._inbox.append(guest)
            self._wake.notify()

    def nudge(self) -> None:
        """Let the thread look round, after a call was cancelled."""
        with self._wake:
            self._wake.notify()

    def close(self) -> None:
        """End every call and the engine; waits for the tick under way."""
        with self._wake:
            self._stopping = True
            self._wake.notify()
        self._thread.join()

    def check(self) -> None:
        """Raise `EngineDead` if the engine failed or was closed."""
        if self._dead is not None:
            raise self._dead
        if self._stopping:
            raise EngineDead("the engine is closed; load the bundle again")

    def _refuse_if_full(self, rows: Sequence[AskedRow]) -> None:
        core = self.engine.core
        arrived = [row for other in self._inbox for row in other.asked.rows]
        waiting, free = len(arrived) + core.waiting, core.limits.rows - core.running
        if waiting + len(rows) <= free:
            return
        if len(rows) > self.max_queued + core.limits.rows:
            raise InputError(
                f"a call of {len(rows)} rows; at most {core.limits.rows} run and {self.max_queued} wait: "
                "split it, or load with a larger max_queued"
            )
        if waiting + len(rows) > self.max_queued + free:
            raise QueueFull(
                f"{waiting} requests wait already, at most {self.max_queued} may; ask again later",
                _RETRY_AFTER,
            )
        # The first of them start at once.
        prompts = [*core.waiting_prompts, *(len(row.request.prompt) for row in (*arrived, *rows))]
        tokens = sum(prompts[max(free, 0) :])
        if self.max_queued_tokens is not None and tokens > self.max_queued_tokens:
            raise QueueFull(
                f"{tokens} prompt tokens would wait, at most {self.max_queued_tokens} may; ask again later",
                _RETRY_AFTER,
            )

    def _run(self) -> None:
        while True:
            with self._wake:
                while not self._inbox and not self._guests and not self._stopping:
                    self._wake.wait()
                arrived, self._inbox = self._inbox, []
                stopping = self._stopping
            if stopping:
                self._end_all(EngineDead("the engine was closed while this was generated"), arrived)
                self.engine.close()
                return
            try:
                self._turn(arrived)
            except BaseException as fault:
                logger.exception("the engine failed")
                self._dead = EngineDead(f"the engine failed and serves no more: {fault}")
                self._end_all(self._dead, arrived)
                self.engine.close()
                return

    def _turn(self, arrived: list[Guest]) -> None:
        """Start calls, tick, and hand out what came of it."""
        for guest in arrived:
            self._guests[guest] = self.engine.enter(guest.asked, streams=guest.streams)
        with self.engine.lock:
            try:
                self.engine.core.tick()
            except TtcError as fault:
                # The backend refused, say for want of memory: the rows end, not the room.
                self.engine.core.fail_all(fault)
        self.heartbeat = self.engine.core.clock.now()
        for guest, generation in list(self._guests.items()):
            guest.tell(generation)
            if generation.done:
                del self._guests[guest]

    def _end_all(self, error: TtcError, arrived: list[Guest]) -> None:
        with self._wake:
            guests = [*self._guests, *arrived, *self._inbox]
            self._guests.clear()
            self._inbox.clear()
        for guest in guests:
            guest.fail(error)
