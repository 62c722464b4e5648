"""The engine of an asyncio program: many callers of one loop, one thread that computes."""

import asyncio
import os
import threading
import time

import pytest

import ttc
from tests.support.gated import Gated, shared, until
from tests.support.golden import golden
from tests.support.recording import Wrapped
from ttc.runtime.async_engine import AsyncEngine
from ttc.runtime.caller import Update

PROMPT = golden("tiny_a").vectors["prompt/p12"][0].tolist()
LONG = {"mode": "ar", "max_new_tokens": 3000, "stop_at_eos": False}
SHORT = {"mode": "ar", "max_new_tokens": 8, "stop_at_eos": False}
QUESTION = "Question: Ada has 9 bags with 9 stamps each. Ada sells 4 of them. How many stamps?\nAnswer:"


@pytest.fixture
def backend(ort):
    return Gated(ort.runner)


def test_everybody_gets_their_own(ort, backend):
    """More callers than rows, of all modes; each gets what `Engine.generate` gives."""
    jobs = [
        (PROMPT[: 2 + i], {"mode": mode, "max_new_tokens": 3 + 5 * i, "temperature": 1.0, "seed": i})
        for i, mode in enumerate(["diffusion", "ar", "mock-ar", "lossless", "prompt-lookup", "diffusion"])
    ]

    async def program():
        async with shared(backend) as engine:
            return await asyncio.gather(*(engine.generate(prompt, **options) for prompt, options in jobs))

    results = asyncio.run(program())
    for (prompt, options), result in zip(jobs, results, strict=True):
        assert result.token_ids == ort.generate(prompt, **options).token_ids, options["mode"]


def test_batches_options_and_refusals(ort, backend):
    """As `Engine.generate`: a list for several, an error for what is not valid."""

    async def program():
        async with shared(backend) as engine:
            options = ttc.GenerationOptions(max_new_tokens=5, n=2, temperature=1.0, seed=3)
            two = await engine.generate(PROMPT, options=options)
            assert [result.token_ids for result in two] == [
                result.token_ids for result in ort.generate(PROMPT, options=options)
            ]
            rows = await engine.generate([[5, 6], [5] * 4000], "ar", max_new_tokens=100)
            assert [row.finish_reason == "error" for row in rows] == [False, True]
            with pytest.raises(ttc.InputError, match="threshold is 7"):
                await engine.generate(PROMPT, threshold=7)
            with pytest.raises(ttc.CapacityError):
                await engine.generate(PROMPT, max_new_tokens=5000)
            with pytest.raises(ttc.DeadlineExceeded):
                await engine.generate(PROMPT, deadline=1e-6)
            with pytest.raises(TypeError, match="nonsense"):
                async for _ in engine.stream(PROMPT, nonsense=1):
                    pass
            assert engine.alive

    asyncio.run(program())


@pytest.mark.parametrize("mode", ["diffusion", "ar", "lossless"])
def test_streams(talker, mode):
    """Committed pieces join to the result; provisional ones show a block as it fills."""

    async def read(engine, **options):
        return [update async for update in engine.stream(QUESTION, mode, max_new_tokens=40, **options)]

    async def program():
        async with shared(Wrapped(talker.runner), talker.tokenizer) as engine:
            return await asyncio.gather(read(engine), read(engine, provisional=True), read(engine, stop="a"))

    want = talker.generate(QUESTION, mode, max_new_tokens=40)
    for updates in asyncio.run(program())[:2]:
        committed = [update for update in updates if update.kind == "committed"]
        assert "".join(update.text for update in committed) == want.text
        assert sum((update.token_ids for update in committed), ()) == want.token_ids
        assert updates[-1].finish_reason == want.finish_reason
        assert updates[-1].result.token_ids == want.token_ids
        assert all(update.result is None for update in updates[:-1])
    committed, both, stopped = asyncio.run(program())
    assert {update.kind for update in committed} == {"committed"}
    if mode == "diffusion":
        shown = [update for update in both if update.kind == "provisional"]
        assert shown
        assert all(len(update.token_ids) == 16 and update.text is None for update in shown)
    assert stopped[-1].finish_reason == "stop"
    assert all("a" not in update.text for update in stopped)


def test_a_cancelled_task_frees_its_row(backend):
    """At the next tick; its neighbours and those who wait go on."""

    async def program():
        async with shared(backend, rows=1) as engine:
            core = engine.engine.core
            task = asyncio.create_task(engine.generate(PROMPT, **LONG))
            await until(lambda: core.running == 1)
            backend.gate.clear()
            backend.arrived.clear()
            await until(backend.arrived.is_set)
            waiting = asyncio.create_task(engine.generate(PROMPT, **SHORT))
            await asyncio.sleep(0)
            task.cancel()
            with pytest.raises(asyncio.CancelledError):
                await task
            begun = backend.calls
            backend.gate.set()
            assert len((await waiting).token_ids) == 8
            assert backend.calls == begun + 8, "none more for the row that was cancelled"
            await until(lambda: core.idle)

    asyncio.run(program())


def test_leaving_a_stream_frees_its_row(backend):
    async def program():
        async with shared(backend, rows=1) as engine:
            stream = engine.stream(PROMPT, **LONG)
            async for _ in stream:
                break
            await stream.aclose()
            await until(lambda: engine.engine.core.idle)
            cancel = ttc.Cancel()
            task = asyncio.create_task(engine.generate(PROMPT, cancel=cancel, **LONG))
            await until(lambda: engine.engine.core.running == 1)
            cancel.cancel()
            assert (await task).finish_reason == "cancelled"

    asyncio.run(program())


def test_the_queue_is_bounded(backend):
    """By rows and by the tokens of their prompts; what can start at once does not wait."""

    async def program():
        async with shared(backend, rows=1, max_queued=2, max_queued_tokens=30) as engine:
            core = engine.engine.core
            assert len((await engine.generate([5] * 40, **SHORT)).token_ids) == 8
            backend.gate.clear()
            tasks = [asyncio.create_task(engine.generate(PROMPT, **SHORT))]
            await until(lambda: core.running == 1)
            tasks.append(asyncio.create_task(engine.generate(PROMPT, **SHORT)))
            await asyncio.sleep(0.01)
            with pytest.raises(ttc.QueueFull, match="43 prompt tokens would wait, at most 30") as full:
                await engine.generate([5] * 31, **SHORT)
            assert full.value.retry_after > 0
            tasks.append(asyncio.create_task(engine.generate([5], **SHORT)))
            await asyncio.sleep(0.01)
            started = time.monotonic()
            with pytest.raises(ttc.QueueFull, match="2 requests wait already, at most 2 may"):
                await engine.generate([5], **SHORT)
            assert time.monotonic() - started < 1
            with pytest.raises(ttc.InputError, match="a call of 4 rows; at most 1 run and 2 wait"):
                await engine.generate([[5]] * 4, **SHORT)
            backend.gate.set()
            assert [len(result.token_ids) for result in await asyncio.gather(*tasks)] == [8, 8, 8]
            assert len((await engine.generate([5], **SHORT)).token_ids) == 8

    asyncio.run(program())


def test_prompts_in_the_cores_own_queue_count(backend):
    """What has left the inbox still waits."""

    async def program():
        async with shared(backend, rows=1, max_queued_tokens=30) as engine:
            core = engine.engine.core
            tasks = [asyncio.create_task(engine.generate(PROMPT, **LONG)) for _ in range(3)]
            await until(lambda: core.waiting == 2)
            with pytest.raises(ttc.QueueFull, match="36 prompt tokens would wait"):
                await engine.generate(PROMPT, **SHORT)
            for task in tasks:
                task.cancel()

    asyncio.run(program())


def test_a_dead_engine_fails_every_call_at_once(backend):
    async def program():
        engine = shared(backend, rows=1)
        running = asyncio.create_task(engine.generate(PROMPT, **LONG))
        stream = engine.stream(PROMPT, **LONG)
        reading = asyncio.create_task(anext(stream))
        await until(lambda: engine.engine.core.running == 1)
        waiting = asyncio.create_task(engine.generate([5], **SHORT))
        await asyncio.sleep(0.01)
        backend.fault = RuntimeError("the device is gone")
        started = time.monotonic()
        done = await asyncio.gather(running, reading, waiting, return_exceptions=True)
        assert time.monotonic() - started < 1
        for error in done:
            assert isinstance(error, ttc.EngineDead), error
            assert "the device is gone" in str(error)
            assert "\n" not in str(error)
        assert not engine.alive
        for _ in range(2):
            with pytest.raises(ttc.EngineDead, match="the device is gone"):
                await engine.generate(PROMPT)
            with pytest.raises(ttc.EngineDead):
                await anext(engine.stream(PROMPT))
        await engine.close()

    asyncio.run(program())


def test_a_refusal_of_the_backend_ends_the_rows_alone(backend):
    async def program():
        async with shared(backend) as engine:
            backend.fault = ttc.DeviceMemoryError("too little memory")
            calls = [engine.generate(PROMPT, **SHORT), engine.generate([PROMPT, PROMPT], **SHORT)]
            for error in await asyncio.gather(*calls, return_exceptions=True):
                assert isinstance(error, ttc.DeviceMemoryError)
            backend.fault = None
            assert engine.alive
            assert len((await engine.generate(PROMPT, **SHORT)).token_ids) == 8

    asyncio.run(program())


def test_one_event_loop_only(backend):
    engine = shared(backend)
    asyncio.run(engine.generate(PROMPT, **SHORT))
    with pytest.raises(ttc.BackendError, match="belongs to another event loop"):
        asyncio.run(engine.generate(PROMPT, **SHORT))
    asyncio.run(engine.close())


def test_a_fork_is_named(backend, monkeypatch):
    async def program():
        async with shared(backend) as engine:
            pid = os.getpid()
            monkeypatch.setattr(os, "getpid", lambda: pid + 1)
            with pytest.raises(ttc.BackendError, match="fork"):
                await engine.generate(PROMPT, **SHORT)
            monkeypatch.undo()

    asyncio.run(program())


def test_a_slow_reader_gets_what_it_missed_at_once(backend, ort):
    """In one update: what nobody reads does not pile up."""

    async def program():
        async with shared(backend) as engine:
            stream = engine.stream(PROMPT, "ar", max_new_tokens=64, stop_at_eos=False)
            updates = [await anext(stream)]
            await until(lambda: engine.engine.core.idle)
            await asyncio.sleep(0.05)
            updates += [update async for update in stream]
            return updates

    updates = asyncio.run(program())
    assert len(updates) == 2
    want = ort.generate(PROMPT, "ar", max_new_tokens=64, stop_at_eos=False)
    assert updates[0].token_ids + updates[1].token_ids == want.token_ids
    assert updates[1].finish_reason == "length"


def test_merging():
    result = object()
    first, last = Update("committed", 0, "a", (1,)), Update("committed", 0, "b", (2,), "length", result)
    assert first.merged(last) == Update("committed", 0, "ab", (1, 2), "length", result)
    silent = Update("committed", 0, None, (1,))
    assert silent.merged(Update("committed", 0, None, (2,))).text is None


def test_closing_while_it_runs(backend):
    async def program():
        engine = shared(backend, rows=1)
        tasks = [asyncio.create_task(engine.generate(PROMPT, **LONG)) for _ in range(3)]
        stream = engine.stream(PROMPT, **LONG)
        tasks.append(asyncio.create_task(anext(stream)))
        await until(lambda: engine.engine.core.running == 1)
        await engine.close()
        for error in await asyncio.gather(*tasks, return_exceptions=True):
            assert isinstance(error, ttc.EngineDead), error
            assert "closed" in str(error)
        await engine.close()
        assert not engine.alive
        with pytest.raises(ttc.EngineDead, match="the engine is closed"):
            await engine.generate(PROMPT, **SHORT)

    before = threading.active_count()
    asyncio.run(program())
    assert threading.active_count() == before


def test_a_loop_that_ends_leaves_no_rows(backend):
    """A program that forgets its tasks: asyncio cancels them."""
    engine = shared(backend)

    async def program():
        asyncio.create_task(engine.generate(PROMPT, **LONG))  # noqa: RUF006  # forgotten on purpose
        await until(lambda: engine.engine.core.running == 1)

    asyncio.run(program())
    end = time.monotonic() + 10
    while not engine.engine.core.idle:
        assert time.monotonic() < end
        time.sleep(0.002)
    asyncio.run(engine.close())


def test_the_heartbeat(backend):
    async def program():
        async with shared(backend) as engine:
            await engine.generate(PROMPT, **SHORT)
            await asyncio.sleep(0.05)
            assert engine.heartbeat_age == 0, "nothing is due"
            backend.gate.clear()
            task = asyncio.create_task(engine.generate(PROMPT, **SHORT))
            await asyncio.sleep(0.2)
            assert engine.heartbeat_age > 0.15
            backend.gate.set()
            await task

    asyncio.run(program())


def test_loading(tiny):
    names = ("max_rows", "max_queued", "max_queued_tokens", "max_tokens", "max_owner_rows")
    for name in (*names, "max_owner_queued", "prompt_tokens_per_tick"):
        for value in (0, -1, 1.5, True, "many"):
            with pytest.raises(ttc.InputError, match=f"{name} is .*; valid: an integer from 1"):
                AsyncEngine.load(tiny, **{name: value})

    async def program():
        async with ttc.AsyncEngine.load(tiny, max_rows=2, capacity=64) as engine:
            result = await engine.generate(PROMPT, max_new_tokens=None, stop_at_eos=False)
            assert len(result.token_ids) == 52
            with pytest.raises(ttc.CapacityError):
                await engine.generate(PROMPT, max_new_tokens=53)
        return engine

    engine = asyncio.run(program())
    assert not engine.alive
