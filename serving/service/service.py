"""The service itself, without HTTP: one engine, its phases, and the requests under way."""

import asyncio
import contextlib
import enum
import logging
import time
from collections.abc import AsyncGenerator, Callable, Iterator
from typing import Any

from ttc.errors import EngineDead, TtcError
from ttc.runtime.async_engine import AsyncEngine, Update
from ttc.runtime.decoding.request import Request
from ttc.runtime.decoding.result import Result
from ttc.serving.service.settings import Settings
from ttc.serving.wire.answers import TokenNames
from ttc.serving.wire.errors import NotReady
from ttc.serving.wire.fields import Ask, Defaults

__all__ = ["Phase", "Service", "load_engine"]

logger = logging.getLogger(__name__)
_WATCH_SECONDS = 0.1


class Phase(enum.Enum):
    """Where a service stands. Only a ready one takes work."""

    LOADING = "loading"
    READY = "ready"
    DRAINING = "draining"
    DEAD = "dead"


def load_engine(settings: Settings) -> AsyncEngine:
    """Load the bundle, and generate a little, so that the first request finds all warm."""
    return AsyncEngine.load(
        settings.bundle,
        settings.backend,
        max_rows=settings.max_rows,
        max_queued=settings.max_queued,
        max_queued_tokens=settings.max_queued_tokens,
        device=settings.device,
        engines=settings.engines,
        capacity=settings.capacity,
        threads=settings.threads,
    )


class Service:
    """One engine and what lives as long as it does. Routes ask it for text.

    Attributes:
        settings: what it was started with.
        phase: where it stands.
        failure: why loading failed.
        in_flight: requests for work under way.
    """

    def __init__(self, settings: Settings, load: Callable[[Settings], AsyncEngine] = load_engine) -> None:
        self.settings, self._load = settings, load
        self.started = int(time.time())
        self.defaults = Defaults(settings.mode, settings.max_tokens)
        self.phase, self.in_flight = Phase.LOADING, 0
        self.failure: TtcError | None = None
        self._engine: AsyncEngine | None = None
        self._tasks: list[asyncio.Task[None]] = []
        self.names = TokenNames(None)

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
        return self._engine is not None and self._engine.heartbeat_age > self.settings.stall_seconds

    def start(self) -> None:
        """Begin to load, in a thread, and to watch the engine."""
        self._tasks.append(asyncio.create_task(self._begin(), name="ttc-load"))

    async def close(self) -> None:
        """End every request and the engine."""
        for task in self._tasks:
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)
        if self._engine is not None and self.phase is not Phase.DEAD:
            await self._engine.close()

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
        results = await self.engine.generate(self._requests(ask), **self._options(ask))
        rows = results if isinstance(results, list) else [results]
        for row in rows:
            if row.error is not None:
                raise row.error
        return rows

    async def stream(
        self, ask: Ask, owner: str, *, provisional: bool = False
    ) -> AsyncGenerator[Update, None]:
        """Yield a request's updates; closing the generator takes its rows out."""
        updates = self.engine.stream(self._requests(ask), provisional=provisional, **self._options(ask))
        async with contextlib.aclosing(updates):
            async for update in updates:
                if update.result is not None and update.result.error is not None:
                    raise update.result.error
                yield update

    def _requests(self, ask: Ask) -> list[Request]:
        return [Request(prompt) for prompt in ask.prompts]

    def _options(self, ask: Ask) -> dict[str, Any]:
        return {
            **ask.options,
            "n": ask.n,
            "logprobs": ask.logprobs,
            # Control tokens in what users write are text.
            "split_special_tokens": True,
        }

    async def _begin(self) -> None:
        try:
            loop = asyncio.get_running_loop()
            engine = await loop.run_in_executor(None, self._load, self.settings)
            self.names = TokenNames(engine.engine.tokenizer)
            await engine.generate([engine.engine.config.eos_token_ids[0]], max_new_tokens=1)
        except TtcError as error:
            self.failure = error
            self.phase = Phase.DEAD
            return
        self._engine = engine
        if self.phase is Phase.LOADING:
            self.phase = Phase.READY
        self._tasks.append(asyncio.create_task(self._watch(), name="ttc-watch"))

    async def _watch(self) -> None:
        """Notice when the engine dies, or no longer ticks."""
        engine = self.engine
        while engine.alive and not self.stalled:
            await asyncio.sleep(_WATCH_SECONDS)
        logger.error("the engine is dead; the service ends")
        self.phase = Phase.DEAD
