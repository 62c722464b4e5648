"""What is refused, with which status, and how little of it is echoed."""

import json
from typing import Any

import pytest

from tests.support.service import Running

LONG = "x" * 5000


@pytest.mark.parametrize(
    ("body", "status", "param", "says"),
    [
        ({"prompt": "a", "promt": 1}, 400, "promt", "unknown field 'promt'"),
        ({}, 400, "prompt", "missing"),
        ({"prompt": None}, 400, "prompt", "missing"),
        ({"prompt": []}, 400, "prompt", "valid: text"),
        ({"prompt": ""}, 400, None, "empty"),
        ({"prompt": [1.5]}, 400, "prompt", "1.5"),
        ({"prompt": [True]}, 400, "prompt", "True"),
        ({"prompt": [[1, 2], "a", {}]}, 400, "prompt", "prompt 2 is {}"),
        ({"prompt": ["a"] * 129}, 400, "prompt", "129 prompts; valid: up to 128"),
        ({"prompt": [[1] * 128] * 128, "n": 2}, 400, None, "a call of 256 rows"),
        ({"prompt": [10**6]}, 400, None, "outside the vocabulary"),
        ({"prompt": [5, 3]}, 400, "prompt", "mask id 3"),
        ({"prompt": "\ud800"}, 400, None, "half of a surrogate pair"),
        ({"prompt": "a", "n": 0}, 400, "n", "n is 0"),
        ({"prompt": "a", "n": 10**30}, 400, "n", "n is 1000"),
        ({"prompt": "a", "max_tokens": -1}, 400, "max_tokens", "-1"),
        ({"prompt": "a", "max_tokens": 10**6}, 400, None, "the capacity is"),
        ({"prompt": "a", "max_tokens": 1, "max_completion_tokens": 2}, 400, "max_tokens", "differ"),
        ({"prompt": "a", "temperature": 1e300}, 400, "temperature", "valid"),
        ({"prompt": "a", "top_p": 0.5}, 400, None, "do not apply to mode 'diffusion'"),
        ({"prompt": "a", "top_k": 5}, 400, None, "do not apply to mode 'diffusion'"),
        ({"prompt": "a", "mode": LONG}, 400, None, "unknown mode"),
        ({"prompt": "a", "stop": ["a"] * 5}, 400, "stop", "up to 4"),
        ({"prompt": "a", "stop": ""}, 400, "stop", "empty"),
        ({"prompt": "a", "logprobs": 5}, 400, "logprobs", "0 or 1"),
        ({"prompt": "a", "deadline_ms": 0}, 400, None, "has passed"),
        ({"prompt": "a", "presence_penalty": 0.5}, 400, "presence_penalty", "not supported"),
        ({"prompt": "a", "stream_options": {"include_usage": True}}, 400, "stream_options", "stream true"),
        ({"prompt": "a", "stream": 1}, 400, "stream", "true or false"),
        ({"prompt": "a", "model": LONG}, 404, None, "is not served here"),
        ({"prompt": "a", LONG: 1}, 400, LONG[:100], "unknown field"),
        ({"prompt": "a", "deadline_ms": 0.01}, 504, None, "deadline"),
    ],
)
def test_a_refusal(served: Running, body: dict[str, Any], status: int, param: str | None, says: str) -> None:
    """The status, the field's name, and at most 100 characters of what was sent."""
    answer = served.client.post("/v1/completions", content=json.dumps(body))
    error = answer.json()["error"]
    assert answer.status_code == status, error
    assert error["param"] == param
    assert says in error["message"]
    assert LONG[:100] not in error["message"]
    assert answer.headers["x-request-id"].startswith("req-")


@pytest.mark.parametrize(
    ("raw", "says"),
    [
        (b"", "not valid JSON"),
        (b"{", "not valid JSON"),
        (b"[1]", "valid: a JSON object"),
        (b'{"prompt": "\xff"}', "not UTF-8"),
        (b'{"prompt": "a", "prompt": "b"}', "stands there twice"),
        (b'{"temperature": NaN}', "NaN"),
        (b'{"temperature": 1e999, "prompt": "a"}', "1e999 is not a number"),
        (b'{"seed": ' + b"9" * 5000 + b', "prompt": "a"}', "at most 40 digits"),
        (b'{"prompt": ' + b"[" * 10_000 + b"]" * 10_000 + b"}", "nested too deeply"),
    ],
)
def test_bytes_that_are_no_request(served: Running, raw: bytes, says: str) -> None:
    answer = served.client.post("/v1/completions", content=raw)
    assert answer.status_code == 400
    assert says in answer.json()["error"]["message"]


def test_paths_and_methods(served: Running) -> None:
    for method, path, status in (
        ("GET", "/v1/completions", 405),
        ("GET", "/nothing", 404),
        ("POST", "/v1/models", 405),
        ("GET", "/../../etc/passwd", 404),
    ):
        answer = served.client.request(method, path)
        assert answer.status_code == status
        assert answer.json()["error"]["type"] == "invalid_request_error"
