"""POST /v1/completions: prompts → texts."""

from collections.abc import AsyncGenerator, Sequence
from typing import Any

from starlette.requests import Request

from ttc.runtime.decoding.result import Result
from ttc.serving.routes.asking import (
    check_ask,
    json_answer,
    owner_of,
    read_body,
    service_of,
    unless_gone,
)
from ttc.serving.service.service import Service
from ttc.serving.wire.answers import Head, completion_logprobs, finish_reason, new_head, usage
from ttc.serving.wire.fields import Ask, Prompt, read_completion
from ttc.serving.wire.sse import DONE, EventStream, frame

__all__ = ["completions"]


async def completions(request: Request) -> Any:
    """Answer one request."""
    service = service_of(request)
    ask = read_completion(await read_body(request), service.defaults)
    check_ask(service, ask)
    head = new_head("cmpl", "text_completion", service.settings.model_name)
    owner = owner_of(request)
    if ask.stream:
        return EventStream(_frames(service, ask, owner, head), service.settings.ping_seconds)
    results = await unless_gone(request, service.generate(ask, owner))
    choices = [_choice(service, ask, i, result) for i, result in enumerate(results)]
    return json_answer(head.answer(choices, usage=usage(results, ask.n)))


def _choice(service: Service, ask: Ask, index: int, result: Result) -> dict[str, Any]:
    before = _echoed(service, ask, index)
    return {
        "index": index,
        "text": before + (result.text or ""),
        "logprobs": _logprobs(service, ask, result.token_ids, result.logprobs or (), len(before)),
        "finish_reason": finish_reason(result),
        **_ids(service, ask, result.token_ids),
    }


async def _frames(service: Service, ask: Ask, owner: str, head: Head) -> AsyncGenerator[bytes, None]:
    """Yield a chunk for every block that is committed, usage if asked for, and the end."""
    written: dict[int, int] = {}
    results: dict[int, Result] = {}
    async for update in service.stream(ask, owner):
        row = update.row
        before = "" if row in written else _echoed(service, ask, row)
        if update.result is not None:
            results[row] = update.result
        if before or update.text or update.token_ids or update.result is not None:
            chunk = {
                "index": row,
                "text": before + (update.text or ""),
                "logprobs": None,
                "finish_reason": None if update.result is None else finish_reason(update.result),
                **_ids(service, ask, update.token_ids),
            }
            written[row] = written.get(row, 0) + len(chunk["text"])
            yield frame(head.answer([chunk]))
    if ask.include_usage:
        rows = [results[row] for row in sorted(results)]
        yield frame(head.answer([], usage=usage(rows, ask.n)))
    yield DONE


def _echoed(service: Service, ask: Ask, index: int) -> str:
    """Return the prompt's text where it is to stand before the answer."""
    if not ask.echo:
        return ""
    prompt: Prompt = ask.prompts[index // ask.n]
    if isinstance(prompt, str):
        return prompt
    tokenizer = service.engine.engine.tokenizer
    return "" if tokenizer is None else str(tokenizer.decode(list(prompt), skip_special_tokens=False))


def _logprobs(
    service: Service, ask: Ask, tokens: Sequence[int], logprobs: Sequence[float], offset: int
) -> dict[str, Any] | None:
    if not ask.logprobs:
        return None
    return completion_logprobs(service.names, tokens, logprobs, [None] * len(tokens), offset)


def _ids(service: Service, ask: Ask, tokens: Sequence[int]) -> dict[str, Any]:
    """Token ids, where they were asked for or are all there is."""
    if ask.token_ids or service.engine.engine.tokenizer is None:
        return {"token_ids": list(tokens)}
    return {}
