"""The engine in somebody else's program: ends that come from outside, faults, threads, forks."""

import os
import select
import signal
import threading
import time
from concurrent.futures import ThreadPoolExecutor

import numpy as np
import pytest

import ttc
from tests.support.golden import golden
from tests.support.recording import Wrapped
from ttc.model.graphs import is_mamba_state
from ttc.runtime.engine import Engine

VECTORS = golden("tiny_a").vectors
PROMPT = VECTORS["prompt/p12"][0].tolist()
PROMPTS = [VECTORS[f"prompt/{name}"][0].tolist() for name in ("p12", "p05", "p33", "p01")]
FREE = {"max_new_tokens": 20, "stop_at_eos": False}
MODES = ["diffusion", "ar", "lossless"]


class Slow(Wrapped):
    """Takes its time; says when the first context call begins."""

    def __init__(self, inner, seconds=0.01):
        super().__init__(inner)
        self.seconds, self.calls, self.begun = seconds, 0, threading.Event()

    def context(self, *args, **more):
        self.calls += 1
        self.begun.set()
        time.sleep(self.seconds)
        return super().context(*args, **more)


@pytest.fixture
def slow(ort):
    """An engine whose context calls take 10 ms, and its backend."""
    backend = Slow(ort.runner)
    return Engine(backend), backend


@pytest.mark.parametrize("mode", MODES)
def test_cancel_from_another_thread(slow, mode):
    """Within one tick: as soon as the tick that runs has ended."""
    engine, backend = slow
    cancel, seen = ttc.Cancel(), []
    with ThreadPoolExecutor() as pool:
        waiting = pool.submit(
            engine.generate, PROMPT, mode, cancel=cancel, draft_steps=2, max_new_tokens=2000
        )
        assert backend.begun.wait(10)
        cancel.cancel()
        seen.append(backend.calls)
        result = waiting.result(10)
    assert result.finish_reason == "cancelled"
    assert backend.calls <= seen[0] + 2, "what the tick under way still had to do"
    assert engine.core.idle
    again = engine.generate([PROMPT, PROMPT[:3]], mode, cancel=cancel, max_new_tokens=4)
    assert [result.token_ids for result in again] == [(), ()], "a cancel stays one"


def test_deadlines_are_of_rows(slow):
    engine, _ = slow
    with pytest.raises(ttc.DeadlineExceeded, match=r"the deadline passed after \d+ of at most 2000 tokens"):
        engine.generate(PROMPT, "ar", deadline=0.05, max_new_tokens=2000, stop_at_eos=False)
    late, fine = engine.generate(
        [
            ttc.Request(PROMPT, deadline=0.05, max_new_tokens=2000),
            ttc.Request(PROMPT, deadline=100, max_new_tokens=20),
        ],
        "ar",
        stop_at_eos=False,
    )
    assert (late.finish_reason, type(late.error)) == ("error", ttc.DeadlineExceeded)
    assert 0 < len(late.token_ids) < 2000
    assert (fine.finish_reason, len(fine.token_ids)) == ("length", 20)


def test_closing_a_stream_ends_who_waits_for_it(slow):
    engine, backend = slow
    stream = engine.stream(PROMPT, "ar", max_new_tokens=2000, stop_at_eos=False)
    with ThreadPoolExecutor() as pool:
        waiting = pool.submit(lambda: len(list(stream)))
        assert backend.begun.wait(10)
        stream.close()
        assert waiting.result(10) < 2000
    assert engine.core.idle
    stream.close()
    assert list(stream) == []


def test_a_stream_that_is_forgotten_leaves(slow):
    engine, _ = slow
    stream = engine.stream(PROMPT, "ar", max_new_tokens=2000, stop_at_eos=False)
    next(stream)
    del stream
    engine.generate(PROMPT, max_new_tokens=1)
    assert engine.core.idle


def test_two_threads_get_their_own_results(slow, ort):
    engine, backend = slow
    want = [ort.generate(prompt, "ar", **FREE).token_ids for prompt in PROMPTS]
    start = threading.Barrier(len(PROMPTS))

    def ask(prompt):
        start.wait()
        return engine.generate(prompt, "ar", **FREE).token_ids

    with ThreadPoolExecutor() as pool:
        assert list(pool.map(ask, PROMPTS)) == want
    assert backend.calls < 2 * (20 + 1), "they share calls"


@pytest.mark.parametrize("end", ["cancel", "tick"])
def test_a_row_that_ends_in_the_tick_of_another_thread(ort, end):
    """At the worst moment: after its results were looked for, before its events are handed out."""
    engine = Engine(Wrapped(ort.runner))
    stream = engine.stream(PROMPT, "ar", max_new_tokens=1, stop_at_eos=False)
    generation, settle, turns = stream._generation, stream._generation.settle, []

    def settle_late():
        settle()
        if not turns:
            turns.append(engine.core.tick() if end == "tick" else engine.core.cancel(generation._rows[0]))

    generation.settle = settle_late
    (event,) = stream
    assert event.finish_reason == ("length" if end == "tick" else "cancelled")
    assert event.result.token_ids == event.token_ids


def test_a_thread_that_is_interrupted_fails_its_neighbours_and_not_the_engine(ort):
    class Interrupted(Wrapped):
        armed = True

        def denoise(self, *args, **more):
            if self.armed:
                raise KeyboardInterrupt
            return super().denoise(*args, **more)

    backend = Interrupted(ort.runner)
    engine = Engine(backend)
    other = engine.stream(PROMPT, "ar", **FREE)
    with pytest.raises(KeyboardInterrupt):
        engine.generate(PROMPT, **FREE)
    with pytest.raises(ttc.BackendError, match="interrupted"):
        list(other)
    backend.armed = False
    assert engine.generate(PROMPT, **FREE).token_ids == ort.generate(PROMPT, **FREE).token_ids


@pytest.mark.parametrize("mode", MODES)
@pytest.mark.parametrize("when", [1, 3, 8])
def test_nan_in_one_row_is_that_rows_end(ort, mode, when):
    """In the state of one row of eight, at some call."""

    class Poisoned(Wrapped):
        calls = 0

        def poison(self, state):
            self.calls += 1
            if self.calls == when:
                assert state.batch == 8
                for name, tensor in state.tensors.items():
                    if is_mamba_state(name):
                        tensor[3] = np.nan

        def context(self, state, *args, **more):
            self.poison(state)
            return super().context(state, *args, **more)

        def denoise(self, state, *args, **more):
            self.poison(state)
            return super().denoise(state, *args, **more)

    requests = [ttc.Request([5, 6, 7, 8 + i], temperature=i % 2, seed=i) for i in range(8)]
    options = {**FREE, "draft_steps": 2}
    results = Engine(Poisoned(ort.runner)).generate(requests, mode, **options)
    assert results[3].finish_reason == "error"
    assert isinstance(results[3].error, ttc.NumericsError)
    assert len(results[3].token_ids) < 20
    for i in (0, 1, 2, 4, 5, 6, 7):
        alone = ort.generate(requests[i], mode, **options)
        assert results[i].token_ids == alone.token_ids, f"row {i}"
        assert results[i].finish_reason == "length"
        assert results[i].stats.nfe_per_block == alone.stats.nfe_per_block


def test_a_row_that_is_too_long_fails_alone(ort):
    requests = [PROMPT, ttc.Request(PROMPT, max_new_tokens=5000), [5] * 4090, PROMPTS[1]]
    results = ort.generate(requests[:2], stop_at_eos=False)
    assert [result.finish_reason for result in results] == ["length", "error"]
    results = ort.generate([PROMPT, [5] * 4090, PROMPTS[1]], **FREE)
    assert [result.finish_reason for result in results] == ["length", "error", "length"]
    assert isinstance(results[1].error, ttc.CapacityError)
    assert "\n" not in str(results[1].error)
    assert results[2].token_ids == ort.generate(PROMPTS[1], **FREE).token_ids
    events = list(ort.stream([PROMPT, [5] * 4090], **FREE))
    (refused,) = [event for event in events if event.row == 1]
    assert refused.finish_reason == "error"
    assert isinstance(refused.result.error, ttc.CapacityError)


def test_a_fork_is_named(ort, monkeypatch):
    engine = Engine(Wrapped(ort.runner))
    stream = engine.stream(PROMPT, **FREE)
    pid = os.getpid()
    monkeypatch.setattr(os, "getpid", lambda: pid + 1)
    for use in (
        lambda: engine.generate(PROMPT),
        lambda: engine.stream(PROMPT),
        lambda: engine.generate(PROMPT, max_new_tokens=0),
        lambda: engine.context_logits(PROMPT),
        lambda: engine.denoiser_logits(PROMPT, [3], None),
        engine.warm_up,
        lambda: next(stream),
    ):
        with pytest.raises(ttc.BackendError, match="fork"):
            use()
    engine.close()
    monkeypatch.undo()
    assert list(stream), "closing it in the child closes nothing here"


@pytest.mark.skipif(not hasattr(os, "fork"), reason="a system without fork")
@pytest.mark.filterwarnings("ignore:.*fork.*:DeprecationWarning")
def test_a_child_is_told(engines):
    engine = engines("tiny_a", "torch")
    engine.generate(PROMPT, max_new_tokens=2)
    reader, writer = os.pipe()
    child = os.fork()
    if not child:
        try:
            engine.generate(PROMPT, max_new_tokens=2)
        except ttc.BackendError as error:
            os.write(writer, str(error).encode())
        finally:
            os._exit(0)
    os.close(writer)
    with os.fdopen(reader) as answer:
        said = answer.read()
    os.waitpid(child, 0)
    assert "before a fork" in said


@pytest.mark.skipif(not hasattr(os, "fork"), reason="a system without fork")
@pytest.mark.filterwarnings("ignore:.*fork.*:DeprecationWarning")
def test_a_child_is_told_although_a_thread_held_the_engine(ort):
    """The lock of a tick that ran when the process was forked stays held in the child for ever."""
    engine = Engine(Wrapped(ort.runner))
    stream = engine.stream(PROMPT, **FREE)
    next(stream)
    reader, writer = os.pipe()
    holding, forked = threading.Event(), threading.Event()

    def hold():
        with engine.lock:
            holding.set()
            forked.wait(10)

    thread = threading.Thread(target=hold)
    thread.start()
    assert holding.wait(10)
    child = os.fork()
    if not child:
        try:
            next(stream)
        except ttc.BackendError as error:
            stream.close()
            os.write(writer, str(error).encode())
        finally:
            os._exit(0)
    os.close(writer)
    with os.fdopen(reader) as answer:
        ready, _, _ = select.select([answer], [], [], 20)
        said = answer.read() if ready else os.kill(child, signal.SIGKILL)
    os.waitpid(child, 0)
    forked.set()
    thread.join()
    assert said
    assert "before a fork" in said


def test_torch_is_refused_in_a_forked_child(bundles, monkeypatch):
    from ttc.runtime.backends.torch import load

    monkeypatch.setattr(load, "_first_process", os.getpid() + 1)
    with pytest.raises(ttc.BackendError, match=r"forked.*spawn"):
        ttc.load(bundles("tiny_a"), backend="torch", device="cpu")


def test_an_interrupted_call_leaves_no_row_behind(ort):
    engine = Engine(Wrapped(ort.runner))
    lock, entered = engine.lock, []

    class Interrupted:
        def __enter__(self):
            entered.append(1)
            if len(entered) == 3:  # submit, one tick, and then Ctrl-C
                raise KeyboardInterrupt
            return lock.__enter__()

        def __exit__(self, *fault):
            return lock.__exit__(*fault)

    engine.lock = Interrupted()
    with pytest.raises(KeyboardInterrupt):
        engine.generate(PROMPT, **FREE)
    engine.core.tick()
    assert engine.core.idle


def test_a_backend_that_fails_ends_everybody_by_one_kind_of_error(ort):
    class Failing(Wrapped):
        def context(self, *args, **more):
            raise RuntimeError("no such\nkernel")

    engine = Engine(Failing(ort.runner))
    with pytest.raises(ttc.BackendError, match="the backend failed: RuntimeError: no such kernel") as error:
        engine.generate(PROMPT, **FREE)
    assert isinstance(error.value.__cause__, RuntimeError)
    assert engine.core.idle


def test_text_held_back_comes_with_the_end_by_cancellation(talker):
    """Also where the row's last event is still unread."""
    cancel = ttc.Cancel()
    stop = [text + "NEVER" for text in (" ", ".", "s", "e")]
    given = {"stop": stop, "max_new_tokens": 400, "stop_at_eos": False}
    stream = talker.stream("Tom has", "ar", cancel=cancel, **given)
    for _ in range(3):
        talker.generate("a", "ar", max_new_tokens=1)  # ticks for both
    cancel.cancel()
    events = list(stream)
    assert events[-1].finish_reason == "cancelled"
    assert "".join(event.text or "" for event in events) == events[-1].result.text


def test_finish_early_asks_for_stop_texts(talker):
    """All that is kept is known before the first step."""
    ids = talker.tokenizer.encode("END").ids
    request = ttc.Request("a", fixed=dict(enumerate(ids)))
    given = {"stop": "END", "threshold": 1.0, "max_new_tokens": 16}
    early = talker.generate(request, finish_early=True, **given)
    late = talker.generate(request, **given)
    assert (early.finish_reason, early.stats.nfe) == ("stop", 0)
    assert (early.token_ids, early.text) == (late.token_ids, late.text)
    assert late.stats.nfe > 0


def test_closing_an_engine_ends_what_runs(slow):
    engine, backend = slow
    with ThreadPoolExecutor() as pool:
        waiting = pool.submit(engine.generate, PROMPT, "ar", max_new_tokens=2000, stop_at_eos=False)
        assert backend.begun.wait(10)
        engine.close()
        with pytest.raises(ttc.BackendError, match="closed"):
            waiting.result(10)
    assert engine.core.idle


def test_a_closed_engine_refuses_everything(ort):
    engine = Engine(Wrapped(ort.runner))
    stream = engine.stream(PROMPT, **FREE)
    next(stream)
    engine.close()
    engine.close()
    for use in (
        lambda: engine.generate(PROMPT),
        lambda: engine.generate(PROMPT, max_new_tokens=0),
        lambda: engine.stream(PROMPT),
        lambda: engine.context_logits(PROMPT),
        lambda: engine.denoiser_logits(PROMPT, [3], None),
        engine.warm_up,
    ):
        with pytest.raises(ttc.BackendError, match="the engine is closed"):
            use()
    with pytest.raises(ttc.BackendError, match="closed"):
        list(stream)
