"""The routes of the open inference protocol (KServe v2), for Triton's clients. Without streams."""

import json
from typing import Any

from starlette.requests import Request
from starlette.responses import JSONResponse, Response

from ttc import __version__
from ttc.formats.strictjson import quoted
from ttc.serving.routes.asking import (
    check_ask,
    generated,
    json_answer,
    read_body,
    service_of,
)
from ttc.serving.service.service import Service
from ttc.serving.wire.errors import FieldError, ModelNotFound
from ttc.serving.wire.fields import read_completion
from ttc.serving.wire.kserve import completion_of, read_infer, write_infer

__all__ = ["infer", "model_metadata", "model_ready", "server_metadata"]

_HEADER = "inference-header-content-length"


async def server_metadata(request: Request) -> JSONResponse:
    """Return what answers here."""
    return json_answer({"name": "ttc", "version": __version__, "extensions": ["binary_tensor_data"]})


async def model_metadata(request: Request) -> JSONResponse:
    """Return the model's tensors."""
    _check_model(request)
    text, ids = {"datatype": "BYTES", "shape": [-1]}, {"datatype": "INT32", "shape": [-1]}
    return json_answer(
        {
            "name": service_of(request).settings.model_name,
            "versions": ["1"],
            "platform": "ttc",
            "inputs": [{"name": "text_input", **text}, {"name": "input_ids", **ids}],
            "outputs": [{"name": "text_output", **text}, {"name": "token_ids", **ids}],
        }
    )


async def model_ready(request: Request) -> JSONResponse:
    """200 while work is taken."""
    _check_model(request)
    ready = service_of(request).ready
    return JSONResponse({"ready": ready}, 200 if ready else 503)


async def infer(request: Request) -> Any:
    """Answer one request."""
    service = _check_model(request)
    given, behind = read_infer(await read_body(request), request.headers.get(_HEADER))
    ask = read_completion(json.dumps(completion_of(given, behind)).encode(), service.defaults)
    if ask.stream:
        raise FieldError("stream is not for this path; ask /v1/completions", "stream")
    check_ask(service, ask)
    results = await generated(request, ask)
    body, header = write_infer(
        given,
        service.settings.model_name,
        [result.text or "" for result in results],
        [list(result.token_ids) for result in results],
    )
    if header is None:
        return Response(body, media_type="application/json")
    return Response(body, headers={_HEADER: str(header)}, media_type="application/octet-stream")


def _check_model(request: Request) -> Service:
    service = service_of(request)
    if request.path_params["model"] != service.settings.model_name:
        raise ModelNotFound(
            f"the model {quoted(request.path_params['model'])} is not served here; "
            f"valid: {quoted(service.settings.model_name)}"
        )
    return service
