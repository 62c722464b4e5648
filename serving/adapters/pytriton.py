"""The service as a model of PyTriton: text or ids in, blocks out as they are committed.

    with Triton() as triton:
        bind(triton, Service(Settings(bundle="model.bundle")))
        triton.serve()

Inputs: `text_input` (BYTES) or `input_ids` (INT32), and `options` (BYTES), a JSON object with the fields of
/v1/completions. Every block is a response of its own: `text_output`, `token_ids` and `finish_reason`, empty
but in the last. HTTP has more: keys and owners, `n` and several prompts, and cancelling. What a client
leaves here is written to its end.
"""

import asyncio
import contextlib
import json
from collections.abc import AsyncGenerator, Mapping, Sequence
from typing import Any

import numpy as np

from ttc.errors import EngineDead, InputError
from ttc.serving.routes.asking import check_ask
from ttc.serving.service.auth import ANYBODY
from ttc.serving.service.service import Phase, Service
from ttc.serving.wire.answers import finish_reason
from ttc.serving.wire.fields import read_completion, read_object

__all__ = ["bind"]

_TEXT, _IDS = {"dtype": bytes, "shape": (1,)}, {"dtype": np.int32, "shape": (-1,)}
_INPUTS = {"text_input": _TEXT, "input_ids": _IDS, "options": _TEXT}
_OUTPUTS = {"text_output": _TEXT, "token_ids": _IDS, "finish_reason": _TEXT}


def bind(triton: Any, service: Service) -> None:
    """Give a `pytriton.triton.Triton` the model, under the service's name for it; it loads with the first
    request.
    """
    from pytriton.model_config import ModelConfig, Tensor

    triton.bind(
        model_name=service.settings.model_name,
        infer_func=_Model(service),
        inputs=[Tensor(name=name, optional=True, **kind) for name, kind in _INPUTS.items()],
        outputs=[Tensor(name=name, **kind) for name, kind in _OUTPUTS.items()],
        # Rows meet in the engine, not in Triton's batches, which would wait for the slowest.
        config=ModelConfig(batching=False, decoupled=True),
    )


class _Model:
    """Called with one request at a time, all of them in one event loop."""

    def __init__(self, service: Service) -> None:
        self._service = service
        self._started = False

    async def __call__(
        self, requests: Sequence[Mapping[str, Any]]
    ) -> AsyncGenerator[list[dict[str, Any]], None]:
        service = self._service
        if not self._started:
            self._started = True
            service.start()
        while service.phase is Phase.LOADING:
            await asyncio.sleep(0.02)
        if service.phase is Phase.DEAD:
            raise service.failure or EngineDead("the engine failed; the service has to be started again")
        (request,) = requests
        given = {**_options(request), "prompt": _prompt(request), "return_token_ids": True, "stream": True}
        ask = read_completion(json.dumps(given).encode(), service.defaults)
        check_ask(service, ask)
        if ask.n > 1:
            raise InputError(f"n is {ask.n}; valid here: 1")
        async with contextlib.aclosing(service.stream(ask, ANYBODY)) as updates:
            async for update in updates:
                ended = "" if update.result is None else finish_reason(update.result)
                yield [
                    {
                        "text_output": np.array([(update.text or "").encode()], np.object_),
                        "token_ids": np.array(update.token_ids, np.int32),
                        "finish_reason": np.array([ended.encode()], np.object_),
                    }
                ]


def _options(request: Mapping[str, Any]) -> dict[str, Any]:
    options = read_object(bytes(request["options"].item())) if "options" in request else {}
    if "prompt" in options:
        raise InputError("prompt is among the options; give it as text_input or input_ids")
    return options


def _prompt(request: Mapping[str, Any]) -> Any:
    if ("text_input" in request) == ("input_ids" in request):
        raise InputError("text_input and input_ids: give one of them")
    if "input_ids" in request:
        return [int(token) for token in request["input_ids"]]
    return bytes(request["text_input"].item()).decode()
