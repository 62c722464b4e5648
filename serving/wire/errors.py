"""Errors → status, JSON and Retry-After, in one table.

The body is OpenAI's: `{"error": {"message", "type", "param", "code"}}`.
"""

import json
import math
from dataclasses import dataclass
from typing import Any

from starlette.exceptions import HTTPException
from starlette.responses import Response

from ttc.errors import (
    BackendError,
    CapacityError,
    DeadlineExceeded,
    EngineDead,
    InputError,
    NumericsError,
    QueueFull,
    TtcError,
)

__all__ = [
    "CODES",
    "FieldError",
    "ModelNotFound",
    "NotReady",
    "SlowRequest",
    "TooLarge",
    "Unauthorized",
    "error_body",
    "error_response",
    "kind_of",
]

_MOST_CHARACTERS = 600


class FieldError(InputError):
    """A field of a request is not valid. Attribute: `param`, its name."""

    def __init__(self, message: str, param: str | None = None) -> None:
        super().__init__(message)
        self.param = param


class ModelNotFound(InputError):
    """A request names a model that is not served here."""


class Unauthorized(TtcError):
    """A request brings no key, or a wrong one."""


class TooLarge(InputError):
    """The body of a request has more bytes than allowed."""


class SlowRequest(TtcError):
    """The body of a request did not come in time."""


class NotReady(TtcError):
    """The service takes no work now: it is loading, draining, or dead. Attribute: `retry_after` seconds."""

    def __init__(self, message: str, retry_after: float) -> None:
        super().__init__(message)
        self.retry_after = retry_after


@dataclass(frozen=True, slots=True)
class Kind:
    """What an error is to a client.

    Attributes:
        status: of HTTP.
        type, code: of OpenAI's error object; the code is also the label of the metrics.
        retry_after: seconds, where the error itself names none; None for no such header.
    """

    status: int
    type: str
    code: str
    retry_after: float | None = None


_KINDS: dict[type[Exception], Kind] = {
    ModelNotFound: Kind(404, "invalid_request_error", "model_not_found"),
    TooLarge: Kind(413, "invalid_request_error", "request_too_large"),
    CapacityError: Kind(400, "invalid_request_error", "context_length_exceeded"),
    InputError: Kind(400, "invalid_request_error", "invalid_value"),
    Unauthorized: Kind(401, "authentication_error", "invalid_api_key"),
    SlowRequest: Kind(408, "invalid_request_error", "request_timeout"),
    QueueFull: Kind(429, "rate_limit_error", "queue_full"),
    NotReady: Kind(503, "service_unavailable_error", "not_ready"),
    EngineDead: Kind(503, "service_unavailable_error", "engine_dead", retry_after=10.0),
    BackendError: Kind(503, "service_unavailable_error", "backend_failed", retry_after=10.0),
    DeadlineExceeded: Kind(504, "timeout_error", "deadline_exceeded"),
    NumericsError: Kind(500, "server_error", "numerics"),
    Exception: Kind(500, "server_error", "internal_error"),
}
_HTTP_CODES, _OTHER_HTTP = {404: "not_found", 405: "method_not_allowed"}, "http"
# Every code that there is.
CODES = (*dict.fromkeys(kind.code for kind in _KINDS.values()), *_HTTP_CODES.values(), _OTHER_HTTP)


def kind_of(error: Exception) -> Kind:
    """Return what an error is, by the first of its ancestors that is listed."""
    if isinstance(error, HTTPException):
        return Kind(
            error.status_code, "invalid_request_error", _HTTP_CODES.get(error.status_code, _OTHER_HTTP)
        )
    return next(_KINDS[ancestor] for ancestor in type(error).__mro__ if ancestor in _KINDS)


def error_body(error: Exception) -> dict[str, Any]:
    """Return the JSON object of an error. A bug of ours tells nothing of itself; the log does."""
    kind = kind_of(error)
    if isinstance(error, HTTPException):
        message = str(error.detail)
    else:
        message = (
            str(error) if isinstance(error, TtcError) else "internal error; the log of the service says more"
        )
    if len(message) > _MOST_CHARACTERS:
        message = message[: _MOST_CHARACTERS - 1] + "…"
    param = getattr(error, "param", None)
    return {"error": {"message": message, "type": kind.type, "param": param, "code": kind.code}}


def error_response(error: Exception) -> Response:
    """Return the response of a request that ends in an error before its first byte."""
    kind = kind_of(error)
    headers = dict(error.headers or {}) if isinstance(error, HTTPException) else {}
    retry_after = getattr(error, "retry_after", kind.retry_after)
    if retry_after is not None:
        headers["retry-after"] = str(max(1, math.ceil(retry_after)))
    if kind.status == 401:
        headers["www-authenticate"] = "Bearer"
    body = json.dumps(error_body(error)).encode()
    return Response(body, kind.status, headers, media_type="application/json")
