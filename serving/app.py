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
from ttc.serving.routes.asking import service_of
from ttc.serving.routes.chat import chat_completions
from ttc.serving.routes.completions import completions
from ttc.serving.routes.health import description, live, metadata, metrics, models, ready, version
from ttc.serving.routes.kserve import infer, model_metadata, model_ready, server_metadata
from ttc.serving.routes.native import stream
from ttc.serving.routes.page import page_routes
from ttc.serving.routes.tokens import detokenize, tokenize
from ttc.serving.service.service import Service
from ttc.serving.wire.errors import error_response
from ttc.serving.wire.leaving import ClientGone

__all__ = ["create_app"]

ROUTES = [
    Route("/v1/completions", completions, methods=["POST"]),
    Route("/v1/chat/completions", chat_completions, methods=["POST"]),
    Route("/ttc/v1/stream", stream, methods=["POST"]),
    Route("/tokenize", tokenize, methods=["POST"]),
    Route("/detokenize", detokenize, methods=["POST"]),
    Route("/v1/models", models),
    Route("/v1/health/live", live),
    Route("/v1/health/ready", ready),
    Route("/health", ready),
    Route("/v1/version", version),
    Route("/openapi.json", description),
    Route("/v1/metadata", metadata),
    Route("/v1/metrics", metrics),
    Route("/metrics", metrics),
    Route("/v2", server_metadata),
    Route("/v2/health/live", live),
    Route("/v2/health/ready", ready),
    Route("/v2/models/{model}", model_metadata),
    Route("/v2/models/{model}/ready", model_ready),
    Route("/v2/models/{model}/infer", infer, methods=["POST"]),
    *page_routes(),
]


def create_app(service: Service) -> Starlette:
    """Return the application over a service."""

    @contextlib.asynccontextmanager
    async def life(app: Starlette) -> AsyncIterator[None]:
        service.start()
        try:
            yield
        finally:
            await service.close()

    # Every request passes these from top to bottom.
    gates = [
        Middleware(RequestId),
        Middleware(Authorize, service=service),
        Middleware(Work, service=service),
    ]
    errors = {TtcError: _refused, HTTPException: _refused, ClientGone: _nobody, Exception: _refused}
    app = Starlette(routes=ROUTES, middleware=gates, exception_handlers=errors, lifespan=life)
    app.state.service = service
    return app


async def _refused(request: Request, error: Exception) -> Response:
    service_of(request).metrics.rejected(error)
    return error_response(error)


async def _nobody(request: Request, error: Exception) -> Response:
    return Response(status_code=499)
