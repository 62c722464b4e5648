"""The application: its routes, what every request passes, which errors become which answers, its life."""

import contextlib
from collections.abc import AsyncIterator

from starlette.applications import Starlette
from starlette.exceptions import HTTPException
from starlette.middleware import Middleware
from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import Route

from ttc.errors import TtcError
from ttc.serving.gates import Authorize, RequestId, Work
from ttc.serving.routes.asking import ClientGone
from ttc.serving.routes.completions import completions
from ttc.serving.routes.health import live, metadata, models, ready, version
from ttc.serving.service.auth import Keys
from ttc.serving.service.service import Service
from ttc.serving.wire.errors import error_response

__all__ = ["create_app"]

ROUTES = [
    Route("/v1/completions", completions, methods=["POST"]),
    Route("/v1/models", models),
    Route("/v1/health/live", live),
    Route("/v1/health/ready", ready),
    Route("/health", ready),
    Route("/v1/version", version),
    Route("/v1/metadata", metadata),
]


def create_app(service: Service, keys: Keys) -> Starlette:
    """Return the application over a service."""

    @contextlib.asynccontextmanager
    async def life(app: Starlette) -> AsyncIterator[None]:
        service.start()
        try:
            yield
        finally:
            await service.close()

    # Every request passes these from top to bottom.
    gates = [Middleware(RequestId), Middleware(Authorize, keys=keys), Middleware(Work, service=service)]
    errors = {TtcError: _refused, HTTPException: _refused, ClientGone: _nobody, Exception: _refused}
    app = Starlette(routes=ROUTES, middleware=gates, exception_handlers=errors, lifespan=life)
    app.state.service = service
    return app


async def _refused(request: Request, error: Exception) -> Response:
    return error_response(error)


async def _nobody(request: Request, error: Exception) -> Response:
    return Response(status_code=499)
