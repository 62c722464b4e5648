"""POST /v1/chat/completions: messages → an answer, by the model's chat template."""

import contextlib
from collections.abc import AsyncGenerator
from dataclasses import replace
from typing import Any

from starlette.requests import Request

from ttc.runtime.decoding.result import Result
from ttc.serving.routes.asking import (
    check_ask,
    event_stream,
    generated,
    json_answer,
    last_frames,
    own_usage,
    owner_of,
    read_body,
    service_of,
)
from ttc.serving.service.service import Service
from ttc.serving.wire.answers import Head, chat_logprobs, finish_reason, new_head, usage
from ttc.serving.wire.fields import Ask, read_chat
from ttc.serving.wire.sse import frame

__all__ = ["chat_completions"]


async def chat_completions(request: Request) -> Any:
    """Answer one request."""
    service = service_of(request)
    ask = read_chat(await read_body(request), service.defaults)
    check_ask(service, ask)
    ask = replace(ask, prompts=(service.template.prompt(ask.messages),))
    owner = owner_of(request)
    if ask.stream:
        head = new_head("chatcmpl", "chat.completion.chunk", service.settings.model_name)
        return event_stream(service, _frames(service, ask, owner, head))
    head = new_head("chatcmpl", "chat.completion", service.settings.model_name)
    results = await generated(request, ask)
    choices = [
        {
            "index": i,
            "message": {"role": "assistant", "content": result.text or "", "refusal": None},
            "logprobs": _logprobs(service, ask, result.token_ids, result.logprobs or ()),
            "finish_reason": finish_reason(result),
        }
        for i, result in enumerate(results)
    ]
    return json_answer(head.answer(choices, usage=usage(results, ask.n)))


async def _frames(service: Service, ask: Ask, owner: str, head: Head) -> AsyncGenerator[bytes, None]:
    """Yield a chunk for every block, the first with the role; usage if asked for, and the end."""
    begun: set[int] = set()
    results: dict[int, Result] = {}
    async with contextlib.aclosing(service.stream(ask, owner)) as updates:
        async for update in updates:
            if update.result is not None:
                results[update.row] = update.result
            if not update.text and not update.token_ids and update.result is None:
                continue
            role = {} if update.row in begun else {"role": "assistant"}
            begun.add(update.row)
            choice = {
                "index": update.row,
                "delta": {**role, "content": update.text or ""},
                "logprobs": _logprobs(service, ask, update.token_ids, update.logprobs),
                "finish_reason": None if update.result is None else finish_reason(update.result),
            }
            yield frame(head.answer([choice], **own_usage(ask, update)))
    for end in last_frames(ask, head, results):
        yield end


def _logprobs(
    service: Service, ask: Ask, tokens: tuple[int, ...], logprobs: tuple[float, ...]
) -> dict[str, Any] | None:
    return chat_logprobs(service.names, tokens, logprobs) if ask.logprobs else None
