"""A request that travels: what a door hands to a service in another process, and how it is asked there."""

import asyncio
import contextlib
from collections.abc import AsyncGenerator
from dataclasses import dataclass

from starlette.types import ASGIApp, Message, Scope

from ttc.errors import BackendError

__all__ = ["Forward", "answers"]

# How long an application may take to notice that nobody wants its answer.
_LEAVING_SECONDS = 5.0


@dataclass(frozen=True, slots=True)
class Forward:
    """A whole HTTP request. `headers`: names in lower case, as ASGI has them."""

    method: str
    path: str
    query: bytes
    headers: tuple[tuple[bytes, bytes], ...]
    body: bytes

    def header(self, name: bytes) -> bytes:
        """Return a header's value; nothing where there is none."""
        return next((value for key, value in self.headers if key == name), b"")

    def scope(self) -> Scope:
        """Return it as an application sees it."""
        return {
            "type": "http",
            "asgi": {"version": "3.0", "spec_version": "2.3"},
            "http_version": "1.1",
            "method": self.method,
            "scheme": "http",
            "path": self.path,
            "raw_path": self.path.encode(),
            "query_string": self.query,
            "root_path": "",
            "headers": list(self.headers),
            "client": None,
            "server": None,
        }


async def answers(app: ASGIApp, forward: Forward) -> AsyncGenerator[Message, None]:
    """Yield the ASGI messages of an application's answer as they come, no faster than they are taken; closing
    this is to the application a client that leaves.
    """
    messages: asyncio.Queue[Message] = asyncio.Queue(1)
    gone, asked = asyncio.Event(), False

    async def receive() -> Message:
        nonlocal asked
        if not asked:
            asked = True
            return {"type": "http.request", "body": forward.body, "more_body": False}
        await gone.wait()
        return {"type": "http.disconnect"}

    running = asyncio.ensure_future(app(forward.scope(), receive, messages.put))
    try:
        while True:
            coming = asyncio.ensure_future(messages.get())
            await asyncio.wait({running, coming}, return_when=asyncio.FIRST_COMPLETED)
            if not coming.done() and messages.empty():
                coming.cancel()
                running.result()
                raise BackendError("the application ended before its answer did")
            message = await coming
            yield message
            if message["type"] == "http.response.body" and not message.get("more_body", False):
                return
    finally:
        gone.set()
        # The answer is over: what becomes of the application after it is told to nobody.
        with contextlib.suppress(Exception):
            await asyncio.wait_for(running, _LEAVING_SECONDS)
