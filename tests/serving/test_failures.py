"""Who leaves, what fails: rows are freed, nobody else notices, and no broken stream looks complete."""

import json
import socket
import threading
import time
from collections.abc import AsyncGenerator, Callable, Iterator
from dataclasses import replace
from typing import Any

import httpx
import numpy as np
import pytest

from tests.support.gated import Gated
from tests.support.recording import Wrapped
from tests.support.service import QUESTION, Running, running, until
from ttc.errors import NumericsError
from ttc.model.graphs import is_mamba_state
from ttc.runtime.async_engine import AsyncEngine
from ttc.runtime.caller import Update
from ttc.runtime.decoding.plan import CoreLimits
from ttc.runtime.engine import Engine
from ttc.serving.server import EXIT_DEAD
from ttc.serving.service.service import Phase

LONG = {"prompt": QUESTION, "mode": "ar", "ignore_eos": True, "max_tokens": 3000}


def over(backend: Any, talker: Engine, rows: int = 8, **bounds: Any) -> Callable[..., AsyncEngine]:
    """What loads an engine over this backend, for `running`."""
    limits = CoreLimits(rows, None, 1024)
    return lambda settings, owners: AsyncEngine(
        Engine(backend, talker.tokenizer, limits=limits, prefix_cache_bytes=1 << 24), **bounds
    )


@pytest.fixture
def gate(talker: Engine) -> Any:
    return Gated(talker.runner)


@pytest.fixture
def gated(gate: Any, talker: Engine, mini: Any) -> Iterator[Running]:
    with running(mini, load=over(gate, talker, rows=2), stall_seconds=0.5) as up:
        yield up
        gate.gate.set()


def send(up: Running, body: dict[str, Any]) -> socket.socket:
    """A request on a socket of its own, whose answer nobody has read."""
    raw = json.dumps(body).encode()
    link = socket.create_connection(("127.0.0.1", int(up.url.rsplit(":", 1)[1])), timeout=20)
    head = f"POST /v1/completions HTTP/1.1\r\nhost: x\r\ncontent-length: {len(raw)}\r\n\r\n"
    link.sendall(head.encode() + raw)
    return link


@pytest.mark.parametrize("stream", [True, False])
def test_who_leaves_frees_the_row(served: Running, stream: bool) -> None:
    with send(served, {**LONG, "stream": stream, "n": 3}) as link:
        until(lambda: served.core.running == 3)
        got = b"" if stream else b"data: "
        while b"data: " not in got:
            got += link.recv(4096)
    left = time.monotonic()
    until(lambda: served.core.idle)
    assert time.monotonic() - left < 1
    until(lambda: served.service.in_flight == 0)


class Poisoned(Wrapped):
    """Gives NaN for rows whose context is of one length, from the block after so many tokens on."""

    def __init__(self, inner: Any, length: int) -> None:
        super().__init__(inner)
        self.length = length

    def denoise(self, state: Any, *args: Any, **more: Any) -> Any:
        for name, tensor in state.tensors.items():
            if is_mamba_state(name):
                tensor[: state.batch][state.lengths == self.length] = np.nan
        return super().denoise(state, *args, **more)


@pytest.mark.parametrize("blocks", [0, 2])
def test_nan_in_one_row(mini: Any, talker: Engine, blocks: int) -> None:
    """That request fails, whole or as a stream; the others get what they get alone; nothing is cached."""
    bad, good = [5 + i for i in range(13)], [[9] * (3 + i) for i in range(6)]
    options = {"max_tokens": 64, "ignore_eos": True, "return_token_ids": True}
    backend = Poisoned(talker.runner, len(bad) + 16 * blocks)
    answers: dict[int, httpx.Response] = {}
    with running(mini, load=over(backend, talker)) as up:

        def ask(i: int, prompt: list[int]) -> None:
            answers[i] = up.post(prompt=prompt, **options)

        threads = [threading.Thread(target=ask, args=(i, p)) for i, p in enumerate([*good, bad])]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        failed = answers.pop(len(good))
        assert failed.status_code == 500
        assert failed.json()["error"]["code"] == "numerics"
        for i, prompt in enumerate(good):
            want = talker.generate(prompt, max_new_tokens=64, stop_at_eos=False)
            assert answers[i].json()["choices"][0]["token_ids"] == list(want.token_ids)
        if blocks:
            chunks = up.events(prompt=bad, **options)
            assert chunks[-1]["error"]["code"] == "numerics"
            # Blocks that come together share a chunk.
            told = [chunk["choices"][0]["token_ids"] for chunk in chunks[:-1]]
            assert sum(map(len, told)) == 16 * blocks
        assert f"ttc_corrupted_requests_total {1 + (blocks > 0)}.0" in up.client.get("/metrics").text
        assert up.core.snapshot().prefixes.pieces == 0
        assert up.service.ready


def test_a_block_that_comes_with_the_failure_is_told(
    served: Running, monkeypatch: pytest.MonkeyPatch
) -> None:
    """To a reader so slow that both wait for it."""
    real = served.service.engine.stream
    fault = NumericsError("NaN in the logits")

    async def both(*asked: Any, **options: Any) -> AsyncGenerator[Update, None]:
        (first, *_) = [update async for update in real(*asked, **options)]
        assert len(first.token_ids) == 16
        assert first.result is not None
        yield replace(first, finish_reason="error", result=replace(first.result, error=fault))

    monkeypatch.setattr(served.service.engine, "stream", both)
    block, end = served.events(prompt=QUESTION, max_tokens=16, ignore_eos=True, return_token_ids=True)
    assert len(block["choices"][0]["token_ids"]) == 16
    assert block["choices"][0]["finish_reason"] is None
    assert end["error"]["code"] == "numerics"


def ends(up: Running, gate: Any, strike: Callable[[], None]) -> None:
    """With two rows running and two requests waiting, `strike` kills the engine: all end within a second."""
    answers: list[tuple[float, Any]] = []

    def read(stream: bool) -> None:
        got: Any = up.events(**LONG) if stream else up.post(**LONG)
        answers.append((time.monotonic(), got))

    threads = [threading.Thread(target=read, args=(stream,)) for stream in (True, True, False)]
    threads[0].start()
    threads[1].start()
    until(lambda: up.service.engine.snapshot.counts.context_calls > 20)
    threads[2].start()
    until(lambda: up.service.engine.snapshot.waiting == 1)
    strike()
    until(lambda: not up.service.ready)
    dead = time.monotonic()
    assert up.client.get("/v1/health/ready").status_code == 503
    assert up.client.get("/v1/health/live").status_code == 200
    for thread in threads:
        thread.join(10)
    assert len(answers) == 3
    assert all(when - dead < 1 for when, _ in answers)
    for _, got in answers:
        if isinstance(got, httpx.Response):
            assert got.status_code == 503
            assert got.json()["error"]["code"] == "engine_dead"
        else:
            assert got[-1]["error"]["code"] == "engine_dead"
    until(lambda: up.service.phase is Phase.DEAD)


def test_a_dead_engine(gated: Running, gate: Any, caplog: Any) -> None:
    def strike() -> None:
        gate.fault = RuntimeError("the device is gone")

    ends(gated, gate, strike)
    until(lambda: gated.server.should_exit)
    assert gated.server.exit_code == EXIT_DEAD


def test_an_engine_that_hangs(gated: Running, gate: Any, caplog: Any) -> None:
    ends(gated, gate, gate.gate.clear)
    until(lambda: gated.server.should_exit)
    assert gated.server.exit_code == EXIT_DEAD


def test_a_busy_engine_is_no_sick_one(gated: Running, gate: Any) -> None:
    """Health does not wait in the queue; a stream that waits is pinged, and its deadline is a 504."""
    threads = [threading.Thread(target=gated.post, kwargs={**LONG, "max_tokens": 200}) for _ in range(4)]
    for thread in threads:
        thread.start()
    until(lambda: gated.service.engine.snapshot.running == 2)
    assert gated.client.get("/v1/health/ready").status_code == 200
    overdue = gated.post(**{**LONG, "deadline_ms": 1}, stream=True)
    assert overdue.status_code == 504
    for thread in threads:
        thread.join()


def test_pings_while_nothing_comes(mini: Any, talker: Engine, gate: Any) -> None:
    with running(mini, load=over(gate, talker, rows=1), ping_seconds=0.05) as up:
        gate.gate.clear()
        with up.client.stream("POST", "/v1/completions", json={"prompt": "a", "stream": True}) as answer:
            lines = answer.iter_lines()
            assert next(lines) == ": ping"
            gate.gate.set()
            assert list(lines)[-2] == "data: [DONE]"


def test_a_full_queue(mini: Any, talker: Engine, gate: Any) -> None:
    """429 with Retry-After, at once; those who were let in get their answer."""
    with running(mini, load=over(gate, talker, rows=1, max_queued=2, max_queued_tokens=100)) as up:
        gate.gate.clear()
        answers: list[httpx.Response] = []
        threads = [
            threading.Thread(target=lambda: answers.append(up.post(prompt=[5], max_tokens=4)))
            for _ in range(3)
        ]
        for thread in threads:
            thread.start()
        until(lambda: up.service.in_flight == 3 and up.service.engine.snapshot is not None)
        time.sleep(0.05)
        began = time.monotonic()
        full = up.post(prompt=[5])
        assert time.monotonic() - began < 0.5
        assert full.status_code == 429
        assert 1 <= int(full.headers["retry-after"]) <= 60
        gate.gate.set()
        for thread in threads:
            thread.join()
        assert [answer.status_code for answer in answers] == [200] * 3
