"""What every request passes before its route: an id, a key, and the count of work under way."""

import re
import secrets

from starlette.datastructures import Headers, MutableHeaders
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from ttc.errors import TtcError
from ttc.serving.routes.page import PAGE_PATHS
from ttc.serving.service.service import Service
from ttc.serving.wire.errors import Unauthorized, error_response

__all__ = ["OPEN_PATHS", "Authorize", "RequestId", "Work"]

# All that needs no key: health, and the page's own files, where a key can be typed in.
OPEN_PATHS = (
    frozenset({"/v1/health/live", "/v1/health/ready", "/v2/health/live", "/v2/health/ready"}) | PAGE_PATHS
)
_FIT_ID = re.compile(r"[\x21-\x7e]{1,128}")


class RequestId:
    """Gives every answer the x-request-id of its request, or a new one."""

    def __init__(self, app: ASGIApp) -> None:
        self._app = app

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        said = Headers(scope=scope).get("x-request-id", "")
        request_id = said if _FIT_ID.fullmatch(said) else f"req-{secrets.token_hex(12)}"
        scope["ttc.request_id"] = request_id

        async def tell(message: Message) -> None:
            if message["type"] == "http.response.start":
                MutableHeaders(scope=message)["x-request-id"] = request_id
            await send(message)

        await self._app(scope, receive, tell)


class Authorize:
    """Lets nobody in without a valid key, but to the open paths."""

    def __init__(self, app: ASGIApp, service: Service) -> None:
        self._app, self._service = app, service

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] == "http" and scope["path"] not in OPEN_PATHS:
            try:
                scope["ttc.owner"] = self._service.keys.owner(Headers(scope=scope).get("authorization"))
            except Unauthorized as error:
                self._service.metrics.rejected(error)
                await error_response(error)(scope, receive, send)
                return
        await self._app(scope, receive, send)


class Work:
    """Counts requests for work, which are those that POST; while none is taken it answers 503."""

    def __init__(self, app: ASGIApp, service: Service) -> None:
        self._app, self._service = app, service

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http" or scope["method"] != "POST":
            await self._app(scope, receive, send)
            return
        try:
            self._service.check_open()
        except TtcError as error:
            self._service.metrics.rejected(error)
            await error_response(error)(scope, receive, send)
            return
        with self._service.working():
            await self._app(scope, receive, send)
