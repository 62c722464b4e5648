"""The Ray Serve application: several replicas of the service, and the door before them.

    serve run ttc.serving.adapters.ray:application bundle=model.bundle replicas=2

A replica is a whole service with an engine of its own. Ray Serve starts and watches them, starts more when
their queues grow, and takes out one that is dead; which of them gets a request is our rule.
"""

import asyncio
import contextlib
import os
from collections.abc import AsyncGenerator, Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from ray import serve
from ray.exceptions import RayActorError
from ray.serve.config import AutoscalingConfig, RequestRouterConfig
from ray.serve.exceptions import BackPressureError, DeploymentUnavailableError
from ray.serve.handle import DeploymentHandle
from ray.serve.request_router import PendingRequest, RequestRouter, RunningReplica
from starlette.requests import Request
from starlette.responses import Response
from starlette.types import Message, Receive, Scope, Send

from ttc.errors import EngineDead, InputError
from ttc.formats.strictjson import quoted
from ttc.serving.adapters.affinity import ranked
from ttc.serving.adapters.door import Door, Replicas
from ttc.serving.adapters.forwarding import Forward, answers
from ttc.serving.app import create_app
from ttc.serving.service.auth import Keys, read_keys
from ttc.serving.service.service import Phase, Service
from ttc.serving.service.settings import Settings, read_settings

__all__ = ["Cluster", "application", "build"]

# How long a replica whose engine is dead still says so before its process ends, and is replaced.
_LAST_WORDS_SECONDS = 1.0
_EXIT_DEAD = 71
_COUNTS = ("replicas", "max_replicas", "doors")


@dataclass(frozen=True, slots=True, kw_only=True)
class Cluster:
    """How many replicas there are, and what each gets.

    Attributes:
        replicas, max_replicas: at least and at most; equal for a fixed number.
        scale_up_seconds, scale_down_seconds: how long there must be too much or too little to do before a
            replica comes or goes.
        cpus, gpus: of one replica.
        doors: processes that take requests.
    """

    replicas: int = 2
    max_replicas: int | None = None
    scale_up_seconds: float = 10.0
    scale_down_seconds: float = 300.0
    cpus: float = 1.0
    gpus: float = 0.0
    doors: int = 1


def application(arguments: Mapping[str, str]) -> serve.Application:
    """Return the application that `serve run` is given: arguments are those of `Cluster` and of the service's
    settings (`ttc.serving.service.settings`), by name.

    Raises:
        InputError: an argument that there is not, or one with a value that is none.
    """
    mine: dict[str, Any] = {}
    others: dict[str, str] = {}
    for name, text in arguments.items():
        if name not in Cluster.__dataclass_fields__:
            others[name] = str(text)
            continue
        try:
            mine[name] = int(text) if name in _COUNTS else float(text)
        except ValueError:
            raise InputError(f"{name} is {quoted(text)}; valid: a number") from None
    if unknown := sorted(set(others) - set(Settings.__dataclass_fields__)):
        valid = ", ".join([*Cluster.__dataclass_fields__, *Settings.__dataclass_fields__])
        raise InputError(f"unknown argument {quoted(unknown[0])}; valid: {valid}")
    environment = {**os.environ, **{f"TTC_{name.upper()}": text for name, text in others.items()}}
    return build(read_settings({}, environment=environment), Cluster(**mine))


def build(settings: Settings, cluster: Cluster) -> serve.Application:
    """Return the application of these settings; a replica takes as many requests as its rows and its queue
    hold, and there are as many replicas as it takes that none has more requests than rows.

    Raises:
        InputError: no bundle, or keys that cannot be read.
    """
    if not settings.bundle:
        raise InputError("no bundle; name one: bundle=model.bundle")
    settings = _absolute(settings)
    _keys(settings)
    most = max(cluster.max_replicas or cluster.replicas, cluster.replicas)
    fixed = most == cluster.replicas
    replicas = serve.deployment(
        _Replica,
        name="replica",
        num_replicas=cluster.replicas if fixed else "auto",
        autoscaling_config=None
        if fixed
        else AutoscalingConfig(
            min_replicas=cluster.replicas,
            max_replicas=most,
            target_ongoing_requests=settings.max_rows,
            upscale_delay_s=cluster.scale_up_seconds,
            downscale_delay_s=cluster.scale_down_seconds,
        ),
        max_ongoing_requests=settings.max_rows + settings.max_queued,
        max_queued_requests=settings.max_queued,
        ray_actor_options={"num_cpus": cluster.cpus, "num_gpus": cluster.gpus},
        request_router_config=RequestRouterConfig(request_router_class=AffinityRouter),
        health_check_period_s=1.0,
        health_check_timeout_s=10.0,
        graceful_shutdown_timeout_s=settings.drain_seconds,
    )
    door = serve.deployment(
        _Door,
        name="door",
        num_replicas=cluster.doors,
        max_ongoing_requests=most * (settings.max_rows + settings.max_queued) + 1024,
        ray_actor_options={"num_cpus": 0},
        graceful_shutdown_timeout_s=settings.drain_seconds,
    )
    return door.bind(replicas.bind(settings), settings.max_body_bytes)


class AffinityRouter(RequestRouter):  # type: ignore[misc]  # ray ships no types that mypy finds
    """Sends a request where `ranked` says; `_Replica.forward` has its key and attempt first."""

    async def choose_replicas(
        self, candidate_replicas: list[RunningReplica], pending_request: PendingRequest | None = None
    ) -> list[list[RunningReplica]]:
        """Return the replicas, the best first, each as a rank of its own."""
        key, attempt = "", 0
        if pending_request is not None:
            # Otherwise Ray asks again at once, and without end, while all are busy.
            pending_request.routing_context.should_backoff = True
            key, attempt = pending_request.args[:2]
        named = {replica.replica_id.unique_id: replica for replica in candidate_replicas}
        loads = {
            name: self.replica_queue_len_cache.get(replica.replica_id) or 0 for name, replica in named.items()
        }
        return [[named[name]] for name in ranked(key, loads, attempt)]


class _Replica:
    """One service, asked by the door."""

    async def __init__(self, settings: Settings) -> None:  # type: ignore[misc]  # Ray awaits it
        self._service = Service(settings, _keys(settings))
        self._app = create_app(self._service)
        self._service.start()
        while self._service.phase is Phase.LOADING:
            await asyncio.sleep(0.02)
        if self._service.failure is not None:
            raise self._service.failure
        self._life = asyncio.ensure_future(self._end_when_dead())

    async def forward(self, key: str, attempt: int, forward: Forward) -> AsyncGenerator[Message, None]:
        """Yield the messages of an answer; key and attempt are the router's."""
        async with contextlib.aclosing(answers(self._app, forward)) as messages:
            async for message in messages:
                yield message

    async def check_health(self) -> None:
        """Raise where the service takes no work."""
        if not self._service.ready:
            raise EngineDead(f"the service is {self._service.phase.value}, or its engine is dead")

    async def _end_when_dead(self) -> None:
        while self._service.phase is not Phase.DEAD:
            await asyncio.sleep(0.1)
        await asyncio.sleep(_LAST_WORDS_SECONDS)
        # A thread that hangs in its device would keep the process.
        os._exit(_EXIT_DEAD)


class _Door:
    """The door as a deployment."""

    def __init__(self, replicas: DeploymentHandle, max_body_bytes: int) -> None:
        handle = replicas.options(stream=True)

        async def ask(key: str, attempt: int, forward: Forward) -> AsyncGenerator[Message, None]:
            messages, complete = handle.forward.remote(key, attempt, forward), False
            try:
                async for message in messages:
                    yield message
                complete = True
            finally:
                if not complete:
                    messages.cancel()

        lost = (RayActorError, DeploymentUnavailableError)
        self._door = Door(Replicas(ask, lost, (BackPressureError,)), max_body_bytes)

    async def __call__(self, request: Request) -> Response:
        return _Relayed(self._door)


class _Relayed(Response):
    """A response that an application writes."""

    def __init__(self, app: Door) -> None:
        super().__init__()
        self._app = app

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        await self._app(scope, receive, send)


def _keys(settings: Settings) -> Keys:
    return Keys(None if settings.api_key_file is None else read_keys(Path(settings.api_key_file)))


def _absolute(settings: Settings) -> Settings:
    """Return settings whose files are found from any folder: a replica runs in another."""
    files: dict[str, Any] = {
        name: str(Path(value).resolve())
        for name in ("bundle", "engines", "api_key_file", "chat_template")
        if (value := getattr(settings, name)) is not None
    }
    return replace(settings, served_model_name=settings.model_name, **files)
