"""The engine for asyncio programs: one core and one thread for all callers."""

import asyncio
import functools
import os
from collections.abc import AsyncGenerator, Mapping
from typing import Any, Self, Unpack, overload

from ttc.base.names import BackendName, Mode
from ttc.errors import BackendError, EngineDead, InputError
from ttc.formats.strictjson import quoted
from ttc.runtime.caller import Call, Mailbox, Update
from ttc.runtime.decoding.core import Snapshot
from ttc.runtime.decoding.option_types import OneTextOptions, Options
from ttc.runtime.decoding.options import GenerationOptions
from ttc.runtime.decoding.plan import CoreLimits
from ttc.runtime.decoding.request import Cancel
from ttc.runtime.decoding.result import Result
from ttc.runtime.engine import Engine
from ttc.runtime.load import load
from ttc.runtime.prompts import ManyPrompts, OnePrompt, Prompt
from ttc.runtime.requests import Asked, has_long_text, names_grammar
from ttc.runtime.room import Room

__all__ = ["AsyncEngine"]


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
        self._engine, self._mailbox = engine, Mailbox()
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
        extend_when: int | None = None,
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
            extend_when: diffusion's full blocks are read when so many rows wait with one, or when nobody
                fills one any more; None: on a GPU, where a call costs about the same for any rows, when a
                quarter of those that run do, else at once.
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
            ("extend_when", 1 if extend_when is None else extend_when),
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
            extend_when or core.limits.extend_when,
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

    def _enter(self, asked: Asked, *, streams: bool, provisional: bool) -> Call:
        call = Call(asked, self._mailbox, streams=streams, provisional=provisional)
        self._room.enter(call)
        return call

    def _leave(self, call: Call) -> None:
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
