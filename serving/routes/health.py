"""Whether the service lives and takes work, and what it is.

Health never goes through the queue: a busy engine is not a sick one.
"""

from prometheus_client import CONTENT_TYPE_LATEST
from starlette.requests import Request
from starlette.responses import JSONResponse, Response

from ttc import __version__
from ttc.serving.routes.asking import json_answer, service_of
from ttc.serving.wire.openapi import openapi

__all__ = ["description", "live", "metadata", "metrics", "models", "ready", "version"]


async def live(request: Request) -> JSONResponse:
    """200 as long as the event loop answers."""
    return json_answer({"object": "health.response", "message": "live"})


async def ready(request: Request) -> JSONResponse:
    """200 while work is taken, else 503 with the phase."""
    service = service_of(request)
    if service.ready:
        return json_answer({"object": "health.response", "message": "ready"})
    why = "stalled" if service.stalled else service.phase.value
    headers = {"retry-after": "5"}
    return JSONResponse({"object": "health.response", "message": why}, 503, headers)


async def version(request: Request) -> JSONResponse:
    """Return the release."""
    return json_answer({"release": __version__, "api": "1"})


async def metrics(request: Request) -> Response:
    """Return the metrics as Prometheus reads them."""
    return Response(service_of(request).metrics.text(), media_type=CONTENT_TYPE_LATEST)


async def description(request: Request) -> JSONResponse:
    """Return the OpenAPI description."""
    return json_answer(openapi())


async def models(request: Request) -> JSONResponse:
    """Return the one model that is served."""
    service = service_of(request)
    one = {
        "id": service.settings.model_name,
        "object": "model",
        "created": service.started,
        "owned_by": "ttc",
        "max_model_len": service.engine.engine.room,
    }
    return json_answer({"object": "list", "data": [one]})


async def metadata(request: Request) -> JSONResponse:
    """Return what is served, and on what."""
    service = service_of(request)
    engine = service.engine.engine
    return json_answer(
        {
            "version": __version__,
            "modelInfo": [{"shortName": service.settings.model_name, "modelUrl": ""}],
            "backend": engine.backend,
            "device": engine.device,
            "max_model_len": engine.room,
            "vocab_size": engine.config.vocab_size,
            "mask_token_id": engine.config.mask_token_id,
            "mode": service.settings.mode,
        }
    )
