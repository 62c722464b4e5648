"""The door: takes requests, has a replica answer each, and asks another one where that dies under way.

What an answer is stays the services' matter; the door passes it on. It adds a seed where a request will be
sampled and names none, so that whoever is asked again writes the same. A stream of which something was sent
cannot be asked for again: it ends with an error event, and `[DONE]` is never the door's.
"""

import contextlib
import json
import logging
import secrets
from collections.abc import AsyncGenerator, Callable, Mapping
from dataclasses import dataclass, replace
from typing import Any

from starlette.types import Message, Receive, Scope, Send

from ttc.errors import InputError, QueueFull, TtcError
from ttc.formats.strictjson import parse_json
from ttc.serving.adapters.affinity import key_of
from ttc.serving.adapters.forwarding import Forward
from ttc.serving.wire.errors import NotReady, TooLarge, error_body, error_response
from ttc.serving.wire.leaving import ClientGone, unless_gone
from ttc.serving.wire.sse import frame

__all__ = ["Door", "Replicas", "with_seed"]

logger = logging.getLogger(__name__)
# Statuses of a replica that has no place or takes no work: another one may.
_ELSEWHERE = (429, 503)
_SEEDED_PATHS = ("/v1/completions", "/v1/chat/completions", "/ttc/v1/stream")


@dataclass(frozen=True, slots=True)
class Replicas:
    """Those behind the door.

    Attributes:
        ask: key, attempt, request → the ASGI messages of the answer. A further attempt goes to another
            replica if there is one.
        lost: what that raises when the replica died, or cannot be reached.
        full: what it raises where everybody has too much to do.
        tries: how often a request is sent at most.
        retry_after: in how many seconds there may be room again.
    """

    ask: Callable[[str, int, Forward], AsyncGenerator[Message, None]]
    lost: tuple[type[BaseException], ...]
    full: tuple[type[BaseException], ...] = ()
    tries: int = 4
    retry_after: Callable[[], float] = lambda: 2.0


class Door:
    """An ASGI application. `max_body_bytes`: of requests, as the services behind it have it."""

    def __init__(self, replicas: Replicas, max_body_bytes: int = 1 << 20) -> None:
        self._replicas, self._most = replicas, max_body_bytes

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            raise InputError(f"a {scope['type']} connection; valid: http")
        answer = _Answer(send)
        try:
            forward = await self._forward(scope, receive)
            if forward is not None:
                with contextlib.suppress(ClientGone):
                    await unless_gone(receive, self._answer(forward, answer))
        except TtcError as error:
            if answer.begun:
                await answer.fail(error)
            else:
                await error_response(error)(scope, receive, send)

    async def _forward(self, scope: Scope, receive: Receive) -> Forward | None:
        """Return the whole request; None where the client left before that."""
        body = bytearray()
        while True:
            message = await receive()
            if message["type"] == "http.disconnect":
                return None
            body += message.get("body", b"")
            if len(body) > self._most:
                raise TooLarge(f"the body has more than {self._most} bytes, the most there may be; send less")
            if not message.get("more_body", False):
                break
        headers = tuple((bytes(name), bytes(value)) for name, value in scope["headers"])
        return Forward(scope["method"], scope["path"], scope["query_string"], headers, bytes(body))

    async def _answer(self, forward: Forward, answer: "_Answer") -> None:
        """Ask until somebody has answered."""
        forward, body = with_seed(forward)
        key, replicas, refused = key_of(forward, body), self._replicas, False
        for attempt in range(replicas.tries):
            try:
                async with contextlib.aclosing(replicas.ask(key, attempt, forward)) as messages:
                    async for message in messages:
                        # Once: asking all of them round and round would be a load of its own.
                        if message.get("status") in _ELSEWHERE and not refused:
                            refused = True
                            break
                        await answer.take(message)
                    else:
                        if answer.complete:
                            return
                        raise NotReady("the replica's answer has no end; ask again", 1.0)
            except replicas.full:
                raise QueueFull(
                    "every replica has too much to do; ask again later", replicas.retry_after()
                ) from None
            except replicas.lost:
                logger.warning("a replica was lost while it answered (attempt %d)", attempt + 1)
                if answer.begun:
                    raise NotReady("the replica was lost while it answered; ask again", 1.0) from None
            answer.drop()
        raise NotReady(f"{replicas.tries} replicas were lost while they answered; ask again", 2.0)


class _Answer:
    """What was got of an answer. A whole one is passed on when it is complete, a stream as it comes."""

    def __init__(self, send: Send) -> None:
        self._send = send
        self._held: list[Message] = []
        self._streams = False
        self.begun = self.complete = False

    async def take(self, message: Message) -> None:
        """Take one message in."""
        if message["type"] == "http.response.start":
            self._streams = any(
                name == b"content-type" and value.startswith(b"text/event-stream")
                for name, value in message["headers"]
            )
        else:
            self.complete = not message.get("more_body", False)
        self._held.append(message)
        if self._streams or self.complete:
            held, self._held = self._held, []
            for each in held:
                self.begun = True
                await self._send(each)

    def drop(self) -> None:
        """Forget what is held: somebody else will be asked."""
        self._held = []

    async def fail(self, error: TtcError) -> None:
        """End a stream that has begun, without its `[DONE]`."""
        content = frame(error_body(error), "error")
        await self._send({"type": "http.response.body", "body": content, "more_body": False})


def with_seed(forward: Forward) -> tuple[Forward, Mapping[str, Any] | None]:
    """Return a request that gives the same whoever answers it, and its JSON object.

    A seed is added where one prompt is sampled; of several prompts each has its own, and stays unseeded. What
    is no JSON object, which a service refuses, passes as it is.
    """
    if forward.method != "POST":
        return forward, None
    try:
        body = parse_json(forward.body, "the body", InputError)
    except InputError:
        return forward, None
    if not isinstance(body, dict):
        return forward, None
    prompt, temperature = body.get("prompt"), body.get("temperature")
    several = isinstance(prompt, list) and any(isinstance(item, str | list) for item in prompt)
    sampled = isinstance(temperature, int | float) and temperature > 0
    if forward.path in _SEEDED_PATHS and sampled and not several and body.get("seed") is None:
        body["seed"] = secrets.randbelow(2**31)
        headers = tuple(pair for pair in forward.headers if pair[0] != b"content-length")
        forward = replace(forward, body=json.dumps(body).encode(), headers=headers)
    return forward, body
