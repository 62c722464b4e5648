"""One caller's side of a call whose engine others use as well: what the engine's thread brings, handed over
in the caller's event loop.
"""

import asyncio
import contextlib
from collections import deque
from collections.abc import AsyncGenerator
from dataclasses import dataclass, replace

from ttc.errors import TtcError
from ttc.runtime.decoding.request import Cancel
from ttc.runtime.decoding.result import Event, FinishReason, Result
from ttc.runtime.generation import Generation
from ttc.runtime.requests import Asked

__all__ = ["Call", "Mailbox", "Update"]


@dataclass(frozen=True, slots=True)
class Update:
    """News of one row.

    Attributes:
        kind: "committed" (text that stays) or "provisional" (a block as it is now).
        row: number of the row in its call.
        text: what is new; of a provisional block None.
        token_ids: new tokens; of a provisional block all of its positions, the mask id where undecided.
        finish_reason, result: of the row's last update, how it ended and its result.
        logprobs: of the new tokens, where asked for.
        block_index, step: of a provisional block its number in the row and the denoise step it comes from.
    """

    kind: str
    row: int
    text: str | None
    token_ids: tuple[int, ...]
    finish_reason: FinishReason | None = None
    result: Result | None = None
    logprobs: tuple[float, ...] = ()
    block_index: int = 0
    step: int = 0

    def merged(self, later: "Update") -> "Update":
        """Return one update in place of two committed ones, for a reader that is slow."""
        text = None if self.text is None else self.text + (later.text or "")
        return replace(
            later,
            text=text,
            token_ids=(*self.token_ids, *later.token_ids),
            logprobs=(*self.logprobs, *later.logprobs),
        )


# What a tick brought for one call: updates, and how it ended if it did.
_Outcome = Result | list[Result] | TtcError | None


class Mailbox:
    """What the room's thread has for callers, handed to their event loop once a tick: each hand-over lets
    the other thread take the interpreter, and the room's has to wait for it.
    """

    def __init__(self) -> None:
        self._letters: deque[tuple[Call, list[Update], _Outcome]] = deque()
        self.loop: asyncio.AbstractEventLoop | None = None

    def post(self, call: "Call", updates: list[Update], outcome: _Outcome) -> None:
        """Keep news of a call until they are sent; from any thread."""
        self._letters.append((call, updates, outcome))

    def send(self) -> None:
        """Let the event loop take all that was posted."""
        if self._letters and self.loop is not None:
            # Where the loop is closed, nobody listens any more.
            with contextlib.suppress(RuntimeError):
                self.loop.call_soon_threadsafe(self._deliver)

    def _deliver(self) -> None:
        while self._letters:
            call, updates, outcome = self._letters.popleft()
            call.take(updates, outcome)


class Call:
    """One caller's side of a call; what the room's thread brings is handed over in the caller's loop."""

    def __init__(self, asked: Asked, mailbox: Mailbox, *, streams: bool, provisional: bool) -> None:
        self.streams, self._mailbox, self._provisional = streams, mailbox, provisional
        self.left = Cancel()
        self.asked = asked.also_cancelled_by(self.left)
        loop = asyncio.get_running_loop()
        self.results: asyncio.Future[Result | list[Result]] = loop.create_future()
        self._updates: list[Update] = []
        self._news = asyncio.Event()

    def tell(self, generation: Generation) -> None:
        """See `Guest.tell`."""
        done = generation.done
        if not done and not self.streams:
            return  # there are no events
        events = generation.take_events()
        updates = [self._update(event) for event in events if event.committed or self._provisional]
        outcome: _Outcome = None
        if done:
            try:
                outcome = generation.results()
            except TtcError as error:
                outcome = error
        if updates or outcome is not None:
            self._mailbox.post(self, updates, outcome)

    def fail(self, error: TtcError) -> None:
        """See `Guest.fail`."""
        self._mailbox.post(self, [], error)

    async def updates(self) -> AsyncGenerator[Update, None]:
        """Yield updates until the results are there."""
        while True:
            await self._news.wait()
            self._news.clear()
            updates, self._updates = self._updates, []
            # Who stops at a row's failure has then heard what there is of the others.
            updates.sort(key=lambda update: update.result is not None and update.result.error is not None)
            for update in updates:
                yield update
            if self.results.done() and not self._updates:
                self.results.result()
                return

    @staticmethod
    def _update(event: Event) -> Update:
        kind = "committed" if event.committed else "provisional"
        return Update(
            kind,
            event.row,
            event.text,
            event.token_ids,
            event.finish_reason,
            event.result,
            event.logprobs,
            event.block_index,
            event.step,
        )

    def take(self, updates: list[Update], outcome: _Outcome) -> None:
        """Hand news to whoever waits for them; in the caller's loop."""
        for update in updates:
            self._add(update)
        if outcome is not None and not self.results.done():
            if isinstance(outcome, TtcError):
                self.results.set_exception(outcome)
                # A stream may have been left before; then nobody asks.
                self.results.exception()
            else:
                self.results.set_result(outcome)
        self._news.set()

    def _add(self, update: Update) -> None:
        """Keep an update; what nobody has read yet is merged, so that a slow reader costs what it has to
        read.
        """
        for i, other in enumerate(self._updates):
            if other.row == update.row and other.kind == "provisional":
                del self._updates[i]
                break
        last = next((i for i, other in enumerate(self._updates) if other.row == update.row), None)
        if last is not None and update.kind == "committed":
            self._updates[last] = self._updates[last].merged(update)
        else:
            self._updates.append(update)
