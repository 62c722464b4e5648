"""POST /tokenize and /detokenize: text ↔ token ids, as prompts are read."""

from typing import Any

from starlette.requests import Request

from ttc.errors import InputError
from ttc.formats.strictjson import quoted
from ttc.runtime.prompts import check_ids
from ttc.serving.routes.asking import json_answer, read_body, service_of
from ttc.serving.wire.errors import FieldError
from ttc.serving.wire.fields import read_object

__all__ = ["detokenize", "tokenize"]


async def tokenize(request: Request) -> Any:
    """Return the token ids of a prompt; control tokens in it are read as plain text."""
    service = service_of(request)
    given = read_object(await read_body(request))
    _only(given, "prompt", "model")
    prompt = given.get("prompt")
    if not isinstance(prompt, str):
        raise FieldError(f"prompt is {quoted(prompt)}; valid: a text", "prompt")
    ids = service.prompt_ids(prompt)
    return json_answer({"tokens": list(ids), "count": len(ids), "max_model_len": service.engine.engine.room})


async def detokenize(request: Request) -> Any:
    """Return the text of token ids, control tokens shown."""
    engine = service_of(request).engine.engine
    given = read_object(await read_body(request))
    _only(given, "tokens", "model")
    tokens = given.get("tokens")
    if not isinstance(tokens, list):
        raise FieldError(f"tokens is {quoted(tokens)}; valid: a list of token ids", "tokens")
    if engine.tokenizer is None:
        raise InputError("the bundle has no tokenizer.json; there are only token ids")
    ids = check_ids(tokens, engine.config, "tokens")
    return json_answer({"prompt": engine.tokenizer.decode(ids, skip_special_tokens=False)})


def _only(given: dict[str, Any], *names: str) -> None:
    if unknown := sorted(set(given) - set(names)):
        raise FieldError(f"unknown field {quoted(unknown[0])}; valid: {', '.join(names)}", unknown[0][:100])
