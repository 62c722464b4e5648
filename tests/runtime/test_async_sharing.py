"""What a service asks of an `AsyncEngine`: to be watched, to share alike, to say what is going on."""

import asyncio
import threading
import time

import pytest

import ttc
from tests.support.gated import Gated, shared, until
from tests.support.golden import golden
from tests.support.recording import Wrapped
from ttc.runtime.async_engine import AsyncEngine
from ttc.runtime.decoding.plan import CoreLimits
from ttc.runtime.engine import Engine
from ttc.runtime.room import Pace

PROMPT = golden("tiny_a").vectors["prompt/p12"][0].tolist()
LONG = {"mode": "ar", "max_new_tokens": 3000, "stop_at_eos": False}
SHORT = {"mode": "ar", "max_new_tokens": 8, "stop_at_eos": False}


@pytest.fixture
def backend(ort):
    return Gated(ort.runner)


def test_a_tick_that_hangs(backend):
    """Whoever notices may abandon the engine: every call ends at once, and closing does not wait."""

    async def program():
        engine = shared(backend, rows=1)
        running = asyncio.create_task(engine.generate(PROMPT, **LONG))
        await until(lambda: engine.engine.core.running == 1)
        backend.gate.clear()
        backend.arrived.clear()
        await until(backend.arrived.is_set)
        waiting = asyncio.create_task(engine.generate([5], **SHORT))
        await until(lambda: engine.heartbeat_age > 0.05)
        started = time.monotonic()
        engine.abandon("the device hangs")
        for error in await asyncio.gather(running, waiting, return_exceptions=True):
            assert isinstance(error, ttc.EngineDead), error
            assert "the device hangs" in str(error)
        assert not engine.alive
        await engine.close()
        assert time.monotonic() - started < 1
        backend.gate.set()

    before = threading.active_count()
    asyncio.run(program())
    end = time.monotonic() + 10
    while threading.active_count() > before:
        assert time.monotonic() < end, "the thread ends as soon as its tick does"
        time.sleep(0.005)


def test_owners_and_priorities(backend):
    """Who waits first is not served first if others have fewer rows, or more priority; no owner fills all."""

    async def program():
        order = []

        async def ask(name, **schedule):
            await engine.generate(PROMPT, **SHORT, **schedule)
            order.append(name)

        engine = shared(backend, rows=1, max_owner_queued=3)
        async with engine:
            core = engine.engine.core
            backend.gate.clear()
            tasks = [asyncio.create_task(ask("a0", owner="a"))]
            await until(lambda: core.running == 1)
            tasks += [asyncio.create_task(ask(f"a{i}", owner="a")) for i in (1, 2, 3)]
            await asyncio.sleep(0.01)
            with pytest.raises(ttc.QueueFull, match="4 requests of this key would wait, at most 3"):
                await engine.generate(PROMPT, **SHORT, owner="a")
            tasks += [asyncio.create_task(ask("b", owner="b"))]
            tasks += [asyncio.create_task(ask("urgent", owner="c", priority=1))]
            await asyncio.sleep(0.01)
            backend.gate.set()
            await asyncio.gather(*tasks)
        return order

    assert asyncio.run(program()) == ["a0", "urgent", "a1", "a2", "a3", "b"]


def test_nobody_is_held_up_by_anothers_rows(ort):
    """With shared calls, one row of an owner goes on as if the other had one, too; the tokens stay."""
    limits = CoreLimits(8, None, 1024, share_calls=True)

    async def program():
        async with AsyncEngine(Engine(Wrapped(ort.runner), limits=limits)) as engine:
            core = engine.engine.core
            options = {"max_new_tokens": 64, "stop_at_eos": False}
            heavy = [asyncio.create_task(engine.generate(PROMPT, owner="a", **options)) for _ in range(6)]
            await until(lambda: core.running == 6)
            before = engine.snapshot.counts
            light = await engine.generate([5, 6], owner="b", **options)
            during = engine.snapshot.counts
            return light, await asyncio.gather(*heavy), before, during

    light, heavy, before, during = asyncio.run(program())
    assert light.token_ids == ort.generate([5, 6], max_new_tokens=64, stop_at_eos=False).token_ids
    want = ort.generate(PROMPT, max_new_tokens=64, stop_at_eos=False).token_ids
    assert all(result.token_ids == want for result in heavy)
    rows = during.denoiser_rows - before.denoiser_rows
    # Two rows a step while both are there; at most a tick of six before and after.
    assert rows <= 2 * light.stats.nfe + 3 * 6


def test_the_pace():
    """What a refused caller is told: how long so many rows take at the pace of late, within bounds."""
    pace = Pace()
    assert pace.seconds_for(5) == 1
    for second in range(30):
        pace.ended(1, float(2 * second))
    assert pace.seconds_for(5) == pytest.approx(10)
    assert pace.seconds_for(1000) == 60
    pace.ended(4, 60.0)
    assert pace.seconds_for(5) < 10


def test_snapshots(backend):
    """State bytes return to what they were; counts say what was called."""

    async def program():
        async with shared(backend, rows=2) as engine:
            before = engine.snapshot
            assert (before.running, before.waiting, before.state_bytes) == (0, 0, 0)
            backend.gate.clear()
            backend.arrived.clear()
            tasks = [asyncio.create_task(engine.generate(PROMPT, max_new_tokens=20)) for _ in range(3)]
            await until(backend.arrived.is_set)
            backend.gate.set()
            await until(lambda: engine.snapshot.running == 2)
            assert engine.snapshot.state_bytes > 0
            await asyncio.gather(*tasks)
            await until(lambda: engine.snapshot.running == 0)
            after = engine.snapshot
            assert (after.waiting, after.state_bytes) == (0, 0)
            assert sum(after.counts.calls_by_rows.values()) == after.counts.denoiser_calls
            assert after.counts.calls_by_width[len(PROMPT)] >= 1
            assert after.counts.calls_by_width[16] >= 1
            assert before.counts.context_calls == 0, "a snapshot does not change"

    asyncio.run(program())
