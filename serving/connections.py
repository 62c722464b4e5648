"""Connections of clients: how many, and how long one may stay without sending or taking anything."""

import asyncio
import http
from typing import Any, cast

import h11
from uvicorn.protocols.http.h11_impl import H11Protocol

from ttc.errors import TtcError
from ttc.serving.wire.errors import NotReady, SlowRequest, error_response

__all__ = ["connection_class"]


def connection_class(max_connections: int, client_seconds: float) -> type[H11Protocol]:
    """Return the protocol class of a service's connections.

    Args:
        max_connections: more than these get a 503 and are closed.
        client_seconds: after so long without a whole request, or without taking any of an answer, a client
            is let go; with a 408 where it had begun a request, however slowly it goes on with it.
    """
    late = SlowRequest(
        f"the head of the request did not come within {client_seconds:g} seconds; send it again"
    )

    class Connection(H11Protocol):
        _patience: asyncio.TimerHandle | None = None
        _head_begun = False

        def connection_made(self, transport: Any) -> None:
            # It needs no more of a transport than that.
            super().connection_made(cast(asyncio.Transport, _Joined(transport, self.loop)))
            if len(self.connections) > max_connections:
                crowded = NotReady(f"{max_connections} connections are open, the most there may be", 1.0)
                self._end_with(crowded)
                return
            self._wait()

        def connection_lost(self, exc: Exception | None) -> None:
            self._rest()
            super().connection_lost(exc)

        def data_received(self, data: bytes) -> None:
            if self.transport.is_closing():
                return
            self._head_begun = True
            super().data_received(data)
            if self.cycle is not None and not self.cycle.response_complete:
                # From here on the route has its own bound on the body.
                self._rest()

        def on_response_complete(self) -> None:
            self._head_begun = False
            super().on_response_complete()
            if not self.transport.is_closing():
                self._wait()

        def pause_writing(self) -> None:
            self.flow.pause_writing()
            self._wait()

        def resume_writing(self) -> None:
            self._rest()
            self.flow.resume_writing()

        def _wait(self) -> None:
            self._rest()
            self._patience = self.loop.call_later(client_seconds, self._let_go)

        def _let_go(self) -> None:
            if self._head_begun and self.conn.our_state is h11.IDLE:  # there was no answer yet
                self._end_with(late)
            else:
                self.transport.abort()

        def _end_with(self, error: TtcError) -> None:
            self.transport.write(_whole(error))
            self.transport.close()

        def _rest(self) -> None:
            if self._patience is not None:
                self._patience.cancel()
                self._patience = None

    return Connection


class _Joined:
    """A transport that sends what is written in one turn of the event loop by one call: head and body of an
    answer. Each call lets the engine's thread take the interpreter, and the loop has to wait for it.
    """

    def __init__(self, transport: Any, loop: asyncio.AbstractEventLoop) -> None:
        self._transport, self._loop = transport, loop
        self._written: list[bytes] = []

    def write(self, data: bytes) -> None:
        """Send later in this turn."""
        if not self._written:
            self._loop.call_soon(self._send)
        self._written.append(data)

    def close(self) -> None:
        """Send what was written, and close."""
        self._send()
        self._transport.close()

    def _send(self) -> None:
        if self._written:
            written, self._written = self._written, []
            self._transport.write(b"".join(written))

    def __getattr__(self, name: str) -> Any:
        return getattr(self._transport, name)


def _whole(error: TtcError) -> bytes:
    """Return a whole response, where no application is asked for one."""
    response = error_response(error)
    reason = http.HTTPStatus(response.status_code).phrase
    lines = [f"HTTP/1.1 {response.status_code} {reason}".encode()]
    lines += [b"%s: %s" % header for header in (*response.raw_headers, (b"connection", b"close"))]
    return b"\r\n".join([*lines, b"", bytes(response.body)])
