"""POST /v1/completions: prompts → texts."""

import contextlib
from collections.abc import AsyncGenerator
from typing import Any

from starlette.requests import Request

from ttc.runtime.caller import Update
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
from ttc.serving.wire.answers import Head, completion_logprobs, finish_reason, new_head, usage
from ttc.serving.wire.fields import Ask, read_completion
from ttc.serving.wire.sse import frame

__all__ = ["completions"]


async def completions(request: Request) -> Any:
    """Answer one request."""
    service = service_of(request)
    ask = read_completion(await read_body(request), service.defaults)
    check_ask(service, ask)
    head = new_head("cmpl", "text_completion", service.settings.model_name)
    owner = owner_of(request)
    if ask.stream:
        return event_stream(service, _frames(service, ask, owner, head))
    results = await generated(request, ask)
    choices = [_choice(service, ask, i, result) for i, result in enumerate(results)]
    return json_answer(head.answer(choices, usage=usage(results, ask.n)))


def _choice(service: Service, ask: Ask, index: int, result: Result) -> dict[str, Any]:
    whole = Update(
        "committed", index, result.text, result.token_ids, None, result, logprobs=result.logprobs or ()
    )
    return _piece(service, ask, whole, 0)


async def _frames(service: Service, ask: Ask, owner: str, head: Head) -> AsyncGenerator[bytes, None]:
    """Yield a chunk for every block that is committed, usage if asked for, and the end."""
    written: dict[int, int] = {}
    results: dict[int, Result] = {}
    async with contextlib.aclosing(service.stream(ask, owner)) as updates:
        async for update in updates:
            row = update.row
            if update.result is not None:
                results[row] = update.result
            piece = _piece(service, ask, update, written.get(row))
            if piece["text"] or update.token_ids or update.result is not None:
                written[row] = written.get(row, 0) + len(piece["text"])
                yield frame(head.answer([piece], **own_usage(ask, update)))
    for end in last_frames(ask, head, results):
        yield end


def _piece(service: Service, ask: Ask, update: Update, written: int | None) -> dict[str, Any]:
    """Return what an update adds to its choice.

    written: characters of the choice so far; None, or 0 of a whole answer, before the first piece.
    """
    before = "" if written else _echoed(service, ask, update.row)
    return {
        "index": update.row,
        "text": before + (update.text or ""),
        "logprobs": _logprobs(service, ask, update, before, written or 0),
        "finish_reason": None if update.result is None else finish_reason(update.result),
        **_ids(service, ask, update),
    }


def _echoed(service: Service, ask: Ask, row: int) -> str:
    """Return the prompt's text where it is to stand before the answer."""
    if not ask.echo:
        return ""
    prompt, tokenizer = ask.prompts[row // ask.n], service.engine.engine.tokenizer
    if isinstance(prompt, str):
        return prompt
    return "" if tokenizer is None else str(tokenizer.decode(list(prompt), skip_special_tokens=False))


def _logprobs(service: Service, ask: Ask, update: Update, before: str, written: int) -> dict[str, Any] | None:
    """Return the log-probabilities of what an update adds; with echo the prompt's come first."""
    if not ask.logprobs:
        return None
    scores = update.result.prompt_scores if update.result is not None else None
    if not ask.echo or scores is None:
        new = [None] * len(update.token_ids)
        return completion_logprobs(
            service.names, update.token_ids, update.logprobs, new, written + len(before)
        )
    prompt = ask.prompts[update.row // ask.n]
    first = service.prompt_ids(prompt)[0]
    # The token that the tokenizer puts before a text does not stand in it.
    start = -len(service.names(first)) if isinstance(prompt, str) else 0
    tops = [(score.top, score.top_logprob) for score in scores]
    return completion_logprobs(
        service.names,
        [first, *(score.token for score in scores), *update.token_ids],
        [None, *(score.logprob for score in scores), *update.logprobs],
        [None, *tops, *[None] * len(update.token_ids)],
        start,
    )


def _ids(service: Service, ask: Ask, update: Update) -> dict[str, Any]:
    """Token ids, where they were asked for or are all there is."""
    if ask.token_ids or service.engine.engine.tokenizer is None:
        return {"token_ids": list(update.token_ids)}
    return {}
