"""The model for PyTriton without PyTriton; `benchmarks/outside_pytriton.py` runs the real one."""

import asyncio
import json
import sys
from pathlib import Path
from types import ModuleType, SimpleNamespace
from typing import Any

import numpy as np
import pytest

from tests.support.service import QUESTION
from ttc.errors import InputError
from ttc.runtime.engine import Engine
from ttc.serving.adapters.pytriton import bind
from ttc.serving.service.service import Service
from ttc.serving.service.settings import Settings


class Triton:
    """What `bind` is told."""

    def bind(self, **told: Any) -> None:
        self.told = told


@pytest.fixture
def told(mini: Path, monkeypatch: pytest.MonkeyPatch) -> dict[str, Any]:
    module = ModuleType("pytriton.model_config")
    module.Tensor = module.ModelConfig = SimpleNamespace
    monkeypatch.setitem(sys.modules, "pytriton", ModuleType("pytriton"))
    monkeypatch.setitem(sys.modules, "pytriton.model_config", module)
    triton = Triton()
    service = Service(Settings(bundle=str(mini), served_model_name="mini"))
    bind(triton, service)
    return {**triton.told, "service": service}


def text(value: str) -> np.ndarray:
    return np.array([value.encode()], np.object_)


def run(told: dict[str, Any], *requests: dict[str, np.ndarray]) -> list[Any]:
    """The responses of requests that come at once; of one that is refused its error."""

    async def one(request: dict[str, np.ndarray]) -> Any:
        try:
            return [response async for (response,) in told["infer_func"]([request])]
        except InputError as error:
            return error

    async def all_of_them() -> list[Any]:
        try:
            return await asyncio.gather(*map(one, requests))
        finally:
            await told["service"].close()

    return asyncio.run(all_of_them())


def test_it_answers_with_blocks(told: dict[str, Any], talker: Engine) -> None:
    assert told["model_name"] == "mini"
    assert vars(told["config"]) == {"batching": False, "decoupled": True}
    options = {"max_tokens": 40, "mode": "ar", "seed": 3, "temperature": 0.7}
    ids = np.array([7, 8, 9], np.int32)
    plain, sampled = run(
        told, {"text_input": text(QUESTION)}, {"input_ids": ids, "options": text(json.dumps(options))}
    )
    names = {tensor.name for tensor in told["outputs"]}
    assert all(set(response) == names for response in (*plain, *sampled))
    want = talker.generate(QUESTION, max_new_tokens=256, split_special_tokens=True)
    assert b"".join(response["text_output"].item() for response in plain).decode() == want.text
    assert len(plain) > 1
    assert [response["finish_reason"].item() for response in plain][-2:] == [b"", b"stop"]
    want = talker.generate([7, 8, 9], "ar", max_new_tokens=40, seed=3, temperature=0.7)
    assert [token for response in sampled for token in response["token_ids"].tolist()] == list(want.token_ids)


def test_what_it_refuses(told: dict[str, Any]) -> None:
    question, ids = {"text_input": text(QUESTION)}, {"input_ids": np.array([5], np.int32)}
    refused = run(
        told,
        {**question, "options": text('{"n": 2}')},
        {**question, "options": text('{"promt": 1}')},
        {**question, "options": text('{"prompt": "x"}')},
        {**question, "options": text("[]")},
        {**question, **ids},
        {},
    )
    for error, says in zip(
        refused,
        ("n is 2", "unknown field", "prompt", "JSON object", "one of them", "one of them"),
        strict=True,
    ):
        assert says in str(error)
