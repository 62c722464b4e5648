"""Server-sent events: frames, pings while nothing comes, and an honest end.

`[DONE]` means complete: a stream that fails ends with an error event and without it. An error before the
first frame is an ordinary response with its status.
"""

import asyncio
import contextlib
import json
import logging
from collections.abc import AsyncGenerator, Callable, Mapping
from typing import Any

from starlette.types import Receive, Scope, Send

from ttc.errors import TtcError
from ttc.serving.wire.errors import error_body
from ttc.serving.wire.leaving import left

__all__ = ["DONE", "EventStream", "frame"]

logger = logging.getLogger(__name__)
DONE = b"data: [DONE]\n\n"
_PING = b": ping\n\n"
_HEADERS = [
    (b"content-type", b"text/event-stream; charset=utf-8"),
    (b"cache-control", b"no-cache"),
    (b"x-accel-buffering", b"no"),  # proxies that collect responses would hold blocks back
]


def frame(value: Mapping[str, Any], event: str | None = None) -> bytes:
    """Return one event with a JSON object."""
    name = "" if event is None else f"event: {event}\n"
    return f"{name}data: {json.dumps(value, separators=(',', ':'))}\n\n".encode()


class EventStream:
    """A response that sends frames as they come, and stops its generator when the client goes.

    Args:
        frames: each a whole event; closed whatever happens, which takes rows out of the engine.
        ping_seconds: after so long without a frame a comment is sent, so that nobody takes the line for dead.
        failed: called with an error that comes after the first frame.
        gone: called when the client left before the end.
    """

    def __init__(
        self,
        frames: AsyncGenerator[bytes, None],
        ping_seconds: float,
        failed: Callable[[Exception], None],
        gone: Callable[[], None],
    ) -> None:
        self._frames, self._ping, self._failed, self._gone = frames, ping_seconds, failed, gone
        self._begun = False

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        gone = asyncio.ensure_future(left(receive))
        writing = asyncio.ensure_future(self._write(send))
        try:
            await asyncio.wait({gone, writing}, return_when=asyncio.FIRST_COMPLETED)
            if writing.done():
                writing.result()
            else:
                self._gone()
        finally:
            for task in (gone, writing):
                task.cancel()
            await asyncio.gather(gone, writing, return_exceptions=True)
            await self._frames.aclose()

    async def _write(self, send: Send) -> None:
        coming: asyncio.Future[bytes] | None = None
        try:
            while True:
                coming = coming or asyncio.ensure_future(anext(self._frames))
                await asyncio.wait({coming}, timeout=self._ping)
                try:
                    content = coming.result() if coming.done() else _PING
                except StopAsyncIteration:
                    break
                except Exception as error:
                    if not self._begun:
                        raise
                    self._failed(error)
                    if not isinstance(error, TtcError):
                        logger.exception("a stream failed")
                    await self._send(send, frame(error_body(error), "error"))
                    break
                if coming.done():
                    coming = None
                await self._send(send, content)
            await self._send(send, b"", more=False)
        finally:
            if coming is not None:
                coming.cancel()
                with contextlib.suppress(BaseException):
                    await coming

    async def _send(self, send: Send, content: bytes, *, more: bool = True) -> None:
        if not self._begun:
            self._begun = True
            await send({"type": "http.response.start", "status": 200, "headers": list(_HEADERS)})
        await send({"type": "http.response.body", "body": content, "more_body": more})
