"""The engine for asyncio programs: one core and one thread for all callers."""

import asyncio
import contextlib
import functools
import os
from collections import deque
from collections.abc import AsyncGenerator, Mapping
from dataclasses import dataclass, replace
from typing import Any, Self, Unpack, overload

from ttc.base.names import BackendName, Mode
from ttc.errors import BackendError, EngineDead, InputError, TtcError
from ttc.formats.strictjson import quoted
from ttc.runtime.decoding.core import Snapshot
from ttc.runtime.decoding.option_types import OneTextOptions, Options
from ttc.runtime.decoding.options import GenerationOptions
from ttc.runtime.decoding.plan import CoreLimits
from ttc.runtime.decoding.request import Cancel
from ttc.runtime.decoding.result import Event, FinishReason, Result
from ttc.runtime.engine import Engine
from ttc.runtime.generation import Generation
from ttc.runtime.load import load
from ttc.runtime.prompts import ManyPrompts, OnePrompt, Prompt
from ttc.runtime.requests import Asked, has_long_text, names_grammar
from ttc.runtime.room import Room

__all__ = ["AsyncEngine", "Update"]


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


class _Mailbox:
    """What the room's thread has for callers, handed to their event loop once a tick: each hand-over lets
    the other thread take the interpreter, and the room's has to wait for it.
    """

    def __init__(self) -> None:
        self._letters: deque[tuple[_Call, list[Update], _Outcome]] = deque()
        self.loop: asyncio.AbstractEventLoop | None = None

    def post(self, call: "_Call", updates: list[Update], outcome: _Outcome) -> None:
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


class _Call:
    """One caller's side of a call; what the room's thread brings is handed over in the caller's loop."""

    def __init__(self, asked: Asked, mailbox: _Mailbox, *, streams: bool, provisional: bool) -> None:
        self.streams, self._mailbox, self._provisional = streams, mailbox, provisional
        self.left = Cancel()
        self.asked = asked.also_cancelled_by(self.left)
        loop = asyncio.get_running_loop()
        self.results: asyncio.Future[Result | list[Result]] = loop.create_future()
        self._updates: list[Update] = []
        self._news = asyncio.Event()

    def tell(self, generation: Generation) -> None:
        """See `Guest.tell`."""
        events = generation.take_events()
        updates = [self._update(event) for event in events if event.committed or self._provisional]
        outcome: _Outcome = None
        if generation.done:
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


class AsyncEngine:
    """Generates for many callers of one event loop, who share its calls. Make one with `load`; close it, or
    use it as an asynchronous context manager.
    """

    def __repr__(self) -> str:
        return f"<ttc.AsyncEngine over {self._engine!r}>"

    def __init__(
        self,
        engine: Engine,
        max_queued: int = 64,
        max_queued_tokens: int | None = None,
        max_owner_queued: int | None = None,
    ) -> None:
        self._engine, self._mailbox = engine, _Mailbox()
        self._room = Room(engine, max_queued, max_queued_tokens, max_owner_queued, self._mailbox.send)
        self._loop: asyncio.AbstractEventLoop | None = None
        self._process = os.getpid()

    @classmethod
    def load(
        cls,
        bundle: str | os.PathLike[str],
        backend: BackendName = "onnxruntime",
        *,
        max_rows: int = 16,
        max_queued: int = 64,
        max_queued_tokens: int | None = None,
        max_tokens: int | None = None,
        max_owner_rows: int | None = None,
        max_owner_queued: int | None = None,
        prompt_tokens_per_tick: int | None = None,
        share_calls: bool | None = None,
        **options: Any,
    ) -> Self:
        """Open a bundle on a backend.

        Args:
            bundle, backend: as `ttc.load`.
            max_rows: rows that run at once; fewer where the engines were built for fewer.
            max_queued: rows that wait; more are refused with `QueueFull`.
            max_queued_tokens: prompt tokens that wait; None for no bound.
            max_tokens: tokens that running rows may come to hold together; None for no bound.
            max_owner_rows, max_owner_queued: of one owner's rows, how many may run and wait; None for no
                bound.
            share_calls: whether several owners share the calls too, not only the seats; None: on a CPU,
                where a call costs as much as it has rows.
            prompt_tokens_per_tick: prompt tokens read between two denoise steps; None for 1024.
            **options: the other options of `ttc.load`.
        """
        for name, value in (
            ("max_rows", max_rows),
            ("max_queued", max_queued),
            ("max_queued_tokens", 1 if max_queued_tokens is None else max_queued_tokens),
            ("max_tokens", 1 if max_tokens is None else max_tokens),
            ("max_owner_rows", 1 if max_owner_rows is None else max_owner_rows),
            ("max_owner_queued", 1 if max_owner_queued is None else max_owner_queued),
            ("prompt_tokens_per_tick", 1 if prompt_tokens_per_tick is None else prompt_tokens_per_tick),
        ):
            if isinstance(value, bool) or not isinstance(value, int) or value < 1:
                raise InputError(f"{name} is {quoted(value)}; valid: an integer from 1")
        engine = load(bundle, backend, **options)
        core = engine.core
        core.limits = CoreLimits(
            min(max_rows, core.limits.rows),
            max_tokens,
            prompt_tokens_per_tick or core.limits.prompt_tokens,
            max_owner_rows,
            engine.device == "cpu" if share_calls is None else share_calls,
        )
        return cls(engine, max_queued, max_queued_tokens, max_owner_queued)

    @property
    def engine(self) -> Engine:
        """The engine; its properties may be read, its calls are the room's."""
        return self._engine

    @property
    def alive(self) -> bool:
        """Whether new calls are taken."""
        return self._room.alive

    @property
    def heartbeat_age(self) -> float:
        """Seconds since the last tick while there is something to do; 0 while there is not."""
        return self._room.overdue

    @property
    def snapshot(self) -> Snapshot:
        """What was going on after the last tick."""
        return self._room.snapshot

    def abandon(self, reason: str) -> None:
        """End every call, for this reason, while a tick hangs; the engine serves no more."""
        self._room.abandon(EngineDead(reason))

    @overload
    async def generate(  # type: ignore[overload-overlap]
        self,
        prompt: OnePrompt,
        options: Mode | None = None,
        *,
        cancel: Cancel | None = None,
        priority: int = 0,
        owner: str = "",
        **overrides: Unpack[OneTextOptions],
    ) -> Result: ...

    @overload
    async def generate(  # type: ignore[overload-overlap]
        self,
        prompt: OnePrompt,
        options: GenerationOptions | Mode | None = None,
        *,
        cancel: Cancel | None = None,
        priority: int = 0,
        owner: str = "",
        **overrides: Unpack[Options],
    ) -> Result | list[Result]: ...

    @overload
    async def generate(
        self,
        prompt: ManyPrompts,
        options: GenerationOptions | Mode | None = None,
        *,
        cancel: Cancel | None = None,
        priority: int = 0,
        owner: str = "",
        **overrides: Unpack[Options],
    ) -> list[Result]: ...

    @overload
    async def generate(
        self,
        prompt: Prompt,
        options: GenerationOptions | Mode | None = None,
        *,
        cancel: Cancel | None = None,
        priority: int = 0,
        owner: str = "",
        **overrides: Unpack[Options],
    ) -> Result | list[Result]: ...

    async def generate(
        self,
        prompt: Prompt,
        options: GenerationOptions | Mode | None = None,
        *,
        cancel: Cancel | None = None,
        priority: int = 0,
        owner: str = "",
        **overrides: Any,
    ) -> Result | list[Result]:
        """Generate as `Engine.generate`. Cancelling the task takes the rows out at the next tick.

        Args:
            prompt, options, cancel, overrides: as there.
            priority: among those who wait, higher ones start first.
            owner: who asks; owners share the engine alike, however many calls each makes.

        Raises:
            QueueFull: too much is waiting.
            EngineDead: the engine failed.
        """
        self._check()
        asked = await self._read(prompt, options, overrides, cancel, streams=False)
        asked = asked.scheduled(priority, owner)
        call = self._enter(asked, streams=False, provisional=False)
        try:
            return await asyncio.shield(call.results)
        finally:
            self._leave(call)

    async def stream(
        self,
        prompt: Prompt,
        options: GenerationOptions | Mode | None = None,
        *,
        provisional: bool = False,
        cancel: Cancel | None = None,
        priority: int = 0,
        owner: str = "",
        **overrides: Unpack[Options],
    ) -> AsyncGenerator[Update, None]:
        """Yield committed text as it comes, a block at a time; with `provisional` also blocks as they fill.

        Leaving the loop, or cancelling the task, takes the rows out at the next tick.
        """
        self._check()
        asked = await self._read(prompt, options, overrides, cancel, streams=True)
        asked = asked.scheduled(priority, owner)
        call = self._enter(asked, streams=True, provisional=provisional)
        try:
            async for update in call.updates():
                yield update
        finally:
            self._leave(call)

    async def close(self) -> None:
        """End every call and release the model."""
        await asyncio.get_running_loop().run_in_executor(None, self._room.close)

    async def __aenter__(self) -> Self:
        self._check()
        return self

    async def __aexit__(self, *_: object) -> None:
        await self.close()

    async def _read(
        self,
        prompt: Prompt,
        options: GenerationOptions | str | None,
        overrides: Mapping[str, Any],
        cancel: Cancel | None,
        *,
        streams: bool,
    ) -> Asked:
        """Check a call; beside the loop where that may take long."""
        read = functools.partial(self._engine.read, prompt, options, overrides, cancel, streams=streams)
        if not names_grammar(prompt, options, overrides) and not has_long_text(prompt):
            return read()
        return await asyncio.get_running_loop().run_in_executor(None, read)

    def _enter(self, asked: Asked, *, streams: bool, provisional: bool) -> _Call:
        call = _Call(asked, self._mailbox, streams=streams, provisional=provisional)
        self._room.enter(call)
        return call

    def _leave(self, call: _Call) -> None:
        call.left.cancel()
        self._room.nudge()

    def _check(self) -> None:
        if os.getpid() != self._process:
            raise BackendError("this engine was loaded before a fork; load the bundle in the new process")
        loop = asyncio.get_running_loop()
        if self._loop is None:
            self._loop = self._mailbox.loop = loop
        elif self._loop is not loop:
            raise BackendError(
                "this engine belongs to another event loop; load one for each, or use ttc.Engine from threads"
            )
        self._room.check()
