"""The OpenAPI description of the service; a test holds its fields to those that are read."""

from collections.abc import Mapping
from typing import Any

from ttc import __version__
from ttc.base.names import MODES

__all__ = ["openapi"]

_TEXT, _SWITCH = {"type": "string"}, {"type": "boolean"}
_STOP = {
    "oneOf": [
        {"type": "string", "minLength": 1},
        {"type": "array", "items": {"type": "string", "minLength": 1}, "maxItems": 4},
    ]
}
_IDS = {"type": "array", "minItems": 1, "items": {"type": "integer", "minimum": 0}}


def _integer(low: int, high: int) -> dict[str, Any]:
    return {"type": "integer", "minimum": low, "maximum": high}


def _number(low: float, high: float) -> dict[str, Any]:
    return {"type": "number", "minimum": low, "maximum": high}


_COMMON: Mapping[str, Any] = {
    "model": _TEXT,
    "max_tokens": _integer(0, 2**31 - 1),
    "max_completion_tokens": _integer(0, 2**31 - 1),
    "n": _integer(1, 128),
    "stop": _STOP,
    "seed": _integer(0, 2**63 - 1),
    "temperature": _number(0, 10_000),
    "top_p": _number(0, 1),
    "top_k": _integer(1, 2**31 - 1),
    "min_tokens": _integer(0, 2**31 - 1),
    "ignore_eos": _SWITCH,
    "skip_special_tokens": _SWITCH,
    "return_token_ids": _SWITCH,
    "stream": _SWITCH,
    "stream_options": {
        "type": "object",
        "properties": {"include_usage": _SWITCH, "continuous_usage_stats": _SWITCH},
        "additionalProperties": False,
    },
    "user": _TEXT,
    "mode": {"type": "string", "enum": list(MODES)},
    "threshold": _number(0, 1),
    "steps": _integer(1, 2**31 - 1),
    "block_size": _integer(1, 512),
    "draft_steps": {"oneOf": [{"const": "auto"}, _integer(1, 512)]},
    "finish_early": _SWITCH,
    "deadline_ms": _number(0, 24 * 3600 * 1000),
    "priority": _integer(-100, 100),
    "response_format": {"type": "object"},
    "structured_outputs": {"type": "object"},
    "guided_json": {"oneOf": [{"type": "object"}, _TEXT]},
    "guided_regex": _TEXT,
    "guided_choice": {"type": "array", "items": _TEXT},
    "frequency_penalty": {"const": 0},
    "presence_penalty": {"const": 0},
    "repetition_penalty": {"const": 1},
    "min_p": {"const": 0},
    "logit_bias": {"type": "object", "maxProperties": 0},
}
_COMPLETION: Mapping[str, Any] = {
    "prompt": {
        "oneOf": [
            {"type": "string", "minLength": 1},
            {"type": "array", "minItems": 1, "maxItems": 128, "items": {"type": "string", "minLength": 1}},
            _IDS,
            {"type": "array", "minItems": 1, "maxItems": 128, "items": _IDS},
        ]
    },
    "echo": _SWITCH,
    "logprobs": _integer(0, 1),
    "best_of": {"const": 1},
    "suffix": {"const": ""},
}
_CHAT: Mapping[str, Any] = {
    "messages": {
        "type": "array",
        "minItems": 1,
        "items": {
            "type": "object",
            "properties": {"role": _TEXT, "content": _TEXT, "name": _TEXT},
            "required": ["role", "content"],
            "additionalProperties": False,
        },
    },
    "logprobs": _SWITCH,
    "top_logprobs": _integer(0, 1),
    "tools": {"type": "array", "maxItems": 0},
    "tool_choice": {"const": "none"},
    "parallel_tool_calls": _SWITCH,
    "store": {"const": False},
    "metadata": {"type": "object", "maxProperties": 0},
}


def openapi() -> dict[str, Any]:
    """Return the description as an OpenAPI 3.1 object."""
    completion = _object({**_COMPLETION, **_COMMON}, "prompt")
    chat = _object({**_CHAT, **_COMMON}, "messages")
    return {
        "openapi": "3.1.0",
        "info": {"title": "ttc serve", "version": __version__},
        "components": {"securitySchemes": {"key": {"type": "http", "scheme": "bearer"}}},
        "security": [{}, {"key": []}],
        "paths": {
            "/v1/completions": {"post": _operation("Prompts → texts.", completion)},
            "/v1/chat/completions": {"post": _operation("Messages → an answer.", chat)},
            "/ttc/v1/stream": {"post": _operation("Blocks as they fill.", completion)},
            "/tokenize": {
                "post": _operation("Text → ids.", _object({"prompt": _TEXT, "model": _TEXT}, "prompt"))
            },
            "/detokenize": {
                "post": _operation("Ids → text.", _object({"tokens": _IDS, "model": _TEXT}, "tokens"))
            },
            "/v2/models/{model}/infer": {"post": {**_operation("KServe v2.", {"type": "object"}), **_MODEL}},
            "/v2/models/{model}": {"get": {**_operation("The model's tensors."), **_MODEL}},
            "/v2/models/{model}/ready": {"get": {**_operation("Whether work is taken."), **_MODEL}},
            **{path: {"get": _operation(says)} for path, says in _LOOKS.items()},
        },
    }


_MODEL = {"parameters": [{"name": "model", "in": "path", "required": True, "schema": _TEXT}]}
_LOOKS = {
    "/v1/models": "What is served.",
    "/v1/health/live": "Whether it lives.",
    "/v1/health/ready": "Whether it takes work.",
    "/health": "Whether it takes work.",
    "/v1/version": "The release.",
    "/v1/metadata": "What is served, and on what.",
    "/v1/metrics": "Prometheus metrics.",
    "/metrics": "Prometheus metrics.",
    "/v2": "The server, in KServe's words.",
    "/v2/health/live": "Whether it lives.",
    "/v2/health/ready": "Whether it takes work.",
}


def _object(properties: Mapping[str, Any], required: str) -> dict[str, Any]:
    return {
        "type": "object",
        "properties": dict(properties),
        "required": [required],
        "additionalProperties": False,
    }


def _operation(says: str, body: Mapping[str, Any] | None = None) -> dict[str, Any]:
    responses = {"200": {"description": "As asked."}}
    for status, why in (
        ("400", "Not valid; the message says what is."),
        ("401", "No valid key."),
        ("404", "Not served here."),
        ("408", "The body came too slowly."),
        ("413", "The body is too large."),
        ("429", "Too much waits already; see Retry-After."),
        ("500", "The model gave NaN."),
        ("503", "No work is taken now; see Retry-After."),
        ("504", "The deadline passed before the first byte."),
    ):
        responses[status] = {"description": why}
    operation: dict[str, Any] = {"summary": says, "responses": responses}
    if body is not None:
        operation["requestBody"] = {"required": True, "content": {"application/json": {"schema": dict(body)}}}
    return operation
