"""POST /ttc/v1/stream: blocks as they fill.

Takes the fields of /v1/completions and answers with events: `step` (a block after a denoise step, the mask id
where undecided), `block` (text and tokens that stay), and, for every row, `end`. After the last `end` comes
[DONE]; after a failure an `error` and nothing.
"""

import contextlib
from collections.abc import AsyncGenerator
from typing import Any

from starlette.requests import Request

from ttc.runtime.caller import Update
from ttc.serving.routes.asking import check_ask, event_stream, owner_of, read_body, service_of
from ttc.serving.service.service import Service
from ttc.serving.wire.answers import usage
from ttc.serving.wire.fields import Ask, read_completion
from ttc.serving.wire.sse import DONE, EventStream, frame

__all__ = ["stream"]


async def stream(request: Request) -> EventStream:
    """Answer one request."""
    service = service_of(request)
    ask = read_completion(await read_body(request), service.defaults)
    check_ask(service, ask)
    return event_stream(service, _frames(service, ask, owner_of(request)))


async def _frames(service: Service, ask: Ask, owner: str) -> AsyncGenerator[bytes, None]:
    async with contextlib.aclosing(service.stream(ask, owner, provisional=True)) as updates:
        async for update in updates:
            if update.kind == "provisional":
                yield frame(_step(service, update), "step")
                continue
            if update.token_ids or update.text:
                yield frame(_block(service, update), "block")
            if update.result is not None:
                result = update.result
                ending = {
                    "row": update.row,
                    "finish_reason": result.finish_reason,
                    "usage": usage([result], 1),
                    "tokens_per_nfe": result.stats.tokens_per_nfe,
                    "nfe_per_block": list(result.stats.nfe_per_block),
                    "seconds": result.stats.seconds,
                }
                yield frame(ending, "end")
    yield DONE


def _step(service: Service, update: Update) -> dict[str, Any]:
    mask = service.engine.engine.config.mask_token_id
    return {
        "row": update.row,
        "block": update.block_index,
        "step": update.step,
        "token_ids": list(update.token_ids),
        "tokens": [None if token == mask else service.names(token) for token in update.token_ids],
    }


def _block(service: Service, update: Update) -> dict[str, Any]:
    return {
        "row": update.row,
        "text": update.text,
        "token_ids": list(update.token_ids),
        "tokens": [service.names(token) for token in update.token_ids],
        **({"logprobs": list(update.logprobs)} if update.logprobs else {}),
    }
