"""The service itself, without HTTP: one engine, its phases, and the requests under way."""

import asyncio
import contextlib
import enum
import logging
import threading
import time
from collections.abc import AsyncGenerator, Callable, Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any, cast

from ttc.base.files import read_bounded
from ttc.base.names import BackendName
from ttc.errors import EngineDead, InputError
from ttc.runtime.async_engine import AsyncEngine
from ttc.runtime.caller import Update
from ttc.runtime.decoding.core import Snapshot
from ttc.runtime.decoding.options import GenerationOptions
from ttc.runtime.decoding.request import Request
from ttc.runtime.decoding.result import Result
from ttc.serving.service.auth import Keys
from ttc.serving.service.chat import ChatTemplate
from ttc.serving.service.metrics import EngineView, Metrics
from ttc.serving.service.settings import Settings
from ttc.serving.wire.answers import TokenNames
from ttc.serving.wire.errors import NotReady
from ttc.serving.wire.fields import Ask, Defaults, Prompt

__all__ = ["Phase", "Service", "load_engine"]

logger = logging.getLogger(__name__)
_WATCH_SECONDS = 0.1
_MAX_TEMPLATE_BYTES = 1 << 20
# With several keys, the share of running and of waiting rows that one key may have.
_KEY_SHARE = 0.75


class Phase(enum.Enum):
    """Where a service stands. Only a ready one takes work."""

    LOADING = "loading"
    READY = "ready"
    DRAINING = "draining"
    DEAD = "dead"


def load_engine(settings: Settings, owners: int) -> AsyncEngine:
    """Load the bundle.

    owners: how many keys share the engine.
    """
    shares = owners > 1
    return AsyncEngine.load(
        settings.bundle,
        cast(BackendName, settings.backend),  # what is none is refused there
        max_rows=settings.max_rows,
        max_queued=settings.max_queued,
        max_queued_tokens=settings.max_queued_tokens,
        max_owner_rows=max(1, int(settings.max_rows * _KEY_SHARE)) if shares else None,
        max_owner_queued=max(1, int(settings.max_queued * _KEY_SHARE)) if shares else None,
        prompt_tokens_per_tick=settings.prompt_tokens_per_tick,
        device=settings.device,
        engines=settings.engines,
        trust=settings.trust,
        capacity=settings.capacity,
        threads=settings.threads,
        prefix_cache_bytes=settings.prefix_cache_bytes,
    )


class Service:
    """One engine and what lives as long as it does. Routes ask it for text.

    Attributes:
        settings, keys: what it was started with.
        started: when, in seconds since the epoch.
        phase: where it stands.
        failure: why loading failed.
        in_flight: requests for work under way.
        metrics: what is counted.
        names: of tokens, for clients.
    """

    def __init__(
        self,
        settings: Settings,
        keys: Keys | None = None,
        load: Callable[[Settings, int], AsyncEngine] = load_engine,
    ) -> None:
        self.settings, self.keys, self._load = settings, keys or Keys(None), load
        self.started = int(time.time())
        self.defaults = Defaults(settings.mode, settings.max_tokens)
        self.phase, self.in_flight = Phase.LOADING, 0
        self.failure: Exception | None = None
        self.names = TokenNames(None)
        self._engine: AsyncEngine | None = None
        self._template: ChatTemplate | None = None
        self._tasks: list[asyncio.Task[None]] = []
        labels = {"model": settings.model_name, "backend": settings.backend}
        self.metrics = Metrics(EngineView(self._snapshot, self._heartbeat_age, lambda: self.ready, labels))

    @property
    def engine(self) -> AsyncEngine:
        """The engine; `NotReady` while there is none."""
        if self._engine is None:
            raise NotReady("the model is being loaded; ask again in a few seconds", 2.0)
        return self._engine

    @property
    def ready(self) -> bool:
        """Whether work is taken: warm, not draining, and the engine's thread moves on."""
        engine = self._engine
        return self.phase is Phase.READY and engine is not None and engine.alive and not self.stalled

    @property
    def stalled(self) -> bool:
        """Whether a tick is overdue."""
        return self._heartbeat_age() > self.settings.stall_seconds

    @property
    def template(self) -> ChatTemplate:
        """What makes a prompt of a chat; `InputError` where there is none."""
        if self._template is None:
            raise InputError(
                "this model has no chat template; ask /v1/completions, "
                "or start the service with --chat-template FILE"
            )
        return self._template

    def start(self) -> None:
        """Begin to load."""
        self._tasks.append(asyncio.create_task(self._begin(), name="ttc-load"))

    async def close(self) -> None:
        """End every request and the engine."""
        for task in self._tasks:
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)
        if self._engine is not None:
            await self._engine.close()

    def abandon(self, reason: str) -> None:
        """End every request now, without waiting for the tick under way."""
        for task in self._tasks:
            task.cancel()
        if self._engine is not None:
            self._engine.abandon(reason)

    def drain(self) -> None:
        """Take no more work; what was accepted goes on."""
        if self.phase is not Phase.DEAD:
            self.phase = Phase.DRAINING

    def check_open(self) -> None:
        """Raise `NotReady` where no work is taken now, `EngineDead` where none ever will be."""
        if self.phase is Phase.DRAINING:
            raise NotReady("the service is shutting down; ask another replica", 5.0)
        if self.phase is Phase.DEAD:
            raise EngineDead("the engine failed; the service is ending")
        if self.phase is Phase.LOADING:
            raise NotReady("the model is being loaded; ask again in a few seconds", 2.0)

    @contextlib.contextmanager
    def working(self) -> Iterator[None]:
        """Count a request for work, from before its body is read until its last byte is out."""
        self.in_flight += 1
        try:
            yield
        finally:
            self.in_flight -= 1

    async def generate(self, ask: Ask, owner: str) -> list[Result]:
        """Return the results of a request, the texts of one prompt side by side.

        Raises:
            TtcError: also where one row of several failed: an answer is whole or not given.
        """
        began = time.perf_counter()
        results = await self.engine.generate(self._requests(ask), **self._options(ask, owner))
        rows = results if isinstance(results, list) else [results]
        for row in rows:
            self.metrics.ended(row)
        for row in rows:
            if row.error is not None:
                raise row.error
        self.metrics.answered(time.perf_counter() - began)
        return rows

    async def stream(
        self, ask: Ask, owner: str, *, provisional: bool = False
    ) -> AsyncGenerator[Update, None]:
        """Yield a request's updates; closing the generator takes its rows out."""
        began = time.perf_counter()
        last: dict[int, float] = {}
        updates = self.engine.stream(
            self._requests(ask), provisional=provisional, **self._options(ask, owner)
        )
        async with contextlib.aclosing(updates):
            async for update in updates:
                error = None
                if update.result is not None:
                    self.metrics.ended(update.result)
                    error = update.result.error
                if error is not None:
                    # What was committed before it may have waited for a slow reader, and come with it.
                    update = replace(update, finish_reason=None, result=None)
                if update.kind == "committed" and update.token_ids:
                    now = time.perf_counter()
                    if update.row in last:
                        self.metrics.next_block(now - last[update.row])
                    else:
                        self.metrics.first_block(now - began)
                    last[update.row] = now
                if error is None or update.token_ids or update.text:
                    yield update
                if error is not None:
                    raise error
        self.metrics.answered(time.perf_counter() - began)

    def prompt_ids(self, prompt: Prompt) -> tuple[int, ...]:
        """Return the token ids of a prompt, as `generate` reads it."""
        if isinstance(prompt, tuple):
            return prompt
        asked = self.engine.engine.read(prompt, None, {"split_special_tokens": True}, None)
        return asked.rows[0].request.prompt

    def _requests(self, ask: Ask) -> list[Request]:
        return [Request(prompt) for prompt in ask.prompts]

    def _options(self, ask: Ask, owner: str) -> dict[str, Any]:
        return {
            **ask.options,
            "n": ask.n,
            "logprobs": ask.logprobs,
            "prompt_logprobs": ask.logprobs and ask.echo,
            # Control tokens in what users write are text.
            "split_special_tokens": True,
            "priority": ask.priority,
            "owner": owner,
        }

    async def _begin(self) -> None:
        try:
            engine = await self._loaded()
            self._template = _chat_template(self.settings, engine)
            self.names = TokenNames(engine.engine.tokenizer)
            # The first call of anything is slow; it should not be a client's.
            await engine.generate([0], GenerationOptions(mode=self.settings.mode, max_new_tokens=2))
        except Exception as error:
            self.failure, self.phase = error, Phase.DEAD
            return
        self._engine = engine
        if self.phase is Phase.LOADING:
            self.phase = Phase.READY
        self._tasks.append(asyncio.create_task(self._watch(engine), name="ttc-watch"))

    def _loaded(self) -> asyncio.Future[AsyncEngine]:
        """Load the engine in a thread that does not keep the process from ending."""
        loop = asyncio.get_running_loop()
        future: asyncio.Future[AsyncEngine] = loop.create_future()

        def settle(engine: AsyncEngine | None, error: Exception | None) -> None:
            if future.cancelled():
                return
            if engine is not None:
                future.set_result(engine)
            elif error is not None:
                future.set_exception(error)

        def load() -> None:
            engine, failed = None, None
            try:
                engine = self._load(self.settings, self.keys.owners)
            except Exception as error:
                failed = error
            with contextlib.suppress(RuntimeError):  # the loop is closed: nobody waits any more
                loop.call_soon_threadsafe(settle, engine, failed)

        threading.Thread(target=load, name="ttc-load", daemon=True).start()
        return future

    async def _watch(self, engine: AsyncEngine) -> None:
        """Notice when the engine dies, or no longer ticks."""
        while engine.alive and not self.stalled:
            await asyncio.sleep(_WATCH_SECONDS)
        if engine.alive:
            engine.abandon(f"a tick takes longer than {self.settings.stall_seconds:g} seconds")
        logger.error("the engine is dead; the service ends")
        self.phase = Phase.DEAD

    def _snapshot(self) -> Snapshot | None:
        return None if self._engine is None else self._engine.snapshot

    def _heartbeat_age(self) -> float:
        return 0.0 if self._engine is None else self._engine.heartbeat_age


def _chat_template(settings: Settings, engine: AsyncEngine) -> ChatTemplate | None:
    """Return the template from the settings, else the bundle's; None without any, or without a tokenizer."""
    text, tokenizer = engine.engine.chat_template, engine.engine.tokenizer
    if settings.chat_template is not None:
        try:
            text = read_bounded(Path(settings.chat_template), _MAX_TEMPLATE_BYTES, InputError).decode()
        except UnicodeDecodeError as fault:
            raise InputError(f"{settings.chat_template}: not UTF-8 text (byte {fault.start})") from None
    if text is None or tokenizer is None:
        return None
    return ChatTemplate(text, tokenizer, engine.engine.config)
