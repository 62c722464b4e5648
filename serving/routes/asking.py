"""What all routes for work share: reading a body within bounds, and letting go of clients who leave."""

import asyncio
from collections.abc import AsyncGenerator, Iterator, Mapping
from typing import Any

from starlette.requests import ClientDisconnect, Request
from starlette.responses import JSONResponse

from ttc.formats.strictjson import quoted
from ttc.runtime.caller import Update
from ttc.runtime.decoding.result import Result
from ttc.serving.service.auth import ANYBODY
from ttc.serving.service.service import Service
from ttc.serving.wire.answers import Head, usage
from ttc.serving.wire.errors import FieldError, ModelNotFound, SlowRequest, TooLarge
from ttc.serving.wire.fields import Ask
from ttc.serving.wire.leaving import ClientGone, unless_gone
from ttc.serving.wire.sse import DONE, EventStream, frame

__all__ = [
    "check_ask",
    "event_stream",
    "generated",
    "json_answer",
    "last_frames",
    "own_usage",
    "owner_of",
    "read_body",
    "service_of",
]


def service_of(request: Request) -> Service:
    """Return the service behind the application."""
    service: Service = request.app.state.service
    return service


def owner_of(request: Request) -> str:
    """Return whose key the request came with."""
    owner: str = request.scope.get("ttc.owner", ANYBODY)
    return owner


async def read_body(request: Request) -> bytes:
    """Return the body.

    Raises:
        ClientGone: the client left before it was whole.
        TooLarge: more bytes than allowed; the rest is not read.
        SlowRequest: it did not come in time.
    """
    settings = service_of(request).settings
    most, body = settings.max_body_bytes, bytearray()
    refusal = TooLarge(f"the body has more than {most} bytes, the most there may be; send less")
    said = request.headers.get("content-length", "")
    if said.isdecimal() and len(said) < 20 and int(said) > most:
        raise refusal
    try:
        async with asyncio.timeout(settings.client_seconds):
            async for piece in request.stream():
                body += piece
                if len(body) > most:
                    raise refusal
    except ClientDisconnect:
        service_of(request).metrics.aborted()
        raise ClientGone from None
    except TimeoutError:
        raise SlowRequest(
            f"the body did not come within {settings.client_seconds:g} seconds; send it again"
        ) from None
    return bytes(body)


def check_ask(service: Service, ask: Ask) -> None:
    """Raise where a request names another model, or brings ids that no prompt may hold."""
    if ask.model is not None and ask.model != service.settings.model_name:
        raise ModelNotFound(
            f"the model {quoted(ask.model)} is not served here; "
            f"valid: {quoted(service.settings.model_name)}, or none"
        )
    mask = service.engine.engine.config.mask_token_id
    for prompt in ask.prompts:
        if isinstance(prompt, tuple) and mask in prompt:
            raise FieldError(f"prompt holds the mask id {mask}, which is no text; leave it out", "prompt")


async def generated(request: Request, ask: Ask) -> list[Result]:
    """Return the results of a request, unless its client leaves before.

    Raises:
        ClientGone: the client left.
    """
    service = service_of(request)
    try:
        return await unless_gone(request.receive, service.generate(ask, owner_of(request)))
    except ClientGone:
        service.metrics.aborted()
        raise


def event_stream(service: Service, frames: AsyncGenerator[bytes, None]) -> EventStream:
    """Return a response of these frames, whose failures are counted."""
    metrics = service.metrics
    return EventStream(frames, service.settings.ping_seconds, metrics.rejected, metrics.aborted)


def own_usage(ask: Ask, update: Update) -> dict[str, Any]:
    """Return the usage of a text that has just ended, as a field of its chunk, where that was asked for."""
    if not ask.continuous_usage or update.result is None:
        return {}
    return {"usage": usage([update.result], 1)}


def last_frames(ask: Ask, head: Head, results: Mapping[int, Result]) -> Iterator[bytes]:
    """Yield what ends a stream that is complete: usage if asked for, and [DONE].

    results: of all texts, by number.
    """
    if ask.include_usage:
        yield frame(head.answer([], usage=usage([results[row] for row in sorted(results)], ask.n)))
    yield DONE


def json_answer(value: object) -> JSONResponse:
    """Return a response with this JSON."""
    return JSONResponse(value)
