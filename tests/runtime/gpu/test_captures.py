"""Captures that fail, that lack memory, and by which thread they are made: over a fake device."""

import gc
import threading

import numpy as np
import pytest

from ttc.errors import BackendError, DeviceMemoryError

PROMPT = [5, 6, 7, 8]
LONG = {"max_new_tokens": 40, "block_size": 8, "steps": 8, "stop_at_eos": False}


def test_a_work_that_cannot_be_captured_lets_the_others_have_their_graphs(on_device, fake_device):
    want = on_device("tiny_a", 0).generate(PROMPT, **LONG)
    engine, real = on_device("tiny_a"), fake_device.capture
    refused = []

    def capture(work):
        if not refused:  # the first work that would be captured: reading the prompt
            refused.append(work)
        if work is refused[0]:
            raise BackendError("not this one")
        return real(work)

    fake_device.capture = capture
    for _ in range(2):
        result = engine.generate(PROMPT, **LONG)
        assert result.token_ids == want.token_ids
    assert result.stats.graph_level == 0, "what fell lowest is said"
    assert [note for note in result.stats.notes if "not this one" in note]
    assert any(graph._loop for graph in fake_device.graphs), "blocks are still one launch"
    assert engine.runner.runtime.graphs.mode == 2


def test_a_capture_for_which_memory_was_short_is_tried_again_when_some_came_back(on_device, fake_device):
    want = on_device("tiny_a", 0).generate(PROMPT, **LONG)
    engine, real = on_device("tiny_a"), fake_device.capture_loop
    tried = []

    def short(*work):
        tried.append(1)
        raise DeviceMemoryError("not enough for a graph")

    fake_device.capture_loop = short
    for _ in range(2):
        result = engine.generate(PROMPT, **LONG)
        assert (result.token_ids, result.stats.graph_level) == (want.token_ids, 1)
    assert len(tried) == 1, "not again and again"
    fake_device.capture_loop = real
    engine.runner.runtime.graphs.room_made += 1
    result = engine.generate(PROMPT, **LONG)
    assert (result.token_ids, result.stats.graph_level) == (want.token_ids, 2)


def test_memory_for_a_capture_is_made_of_idle_buffers(on_device, fake_device):
    engine, real = on_device("tiny_a"), fake_device.capture_loop
    engine.generate([PROMPT, PROMPT], max_new_tokens=1)  # leaves buffers of two rows behind
    gc.collect()
    failed = []

    def short_once(*work):
        if not failed:
            failed.append(1)
            raise DeviceMemoryError("not enough for a graph")
        return real(*work)

    fake_device.capture_loop = short_once
    result = engine.generate(PROMPT, **LONG)
    assert result.stats.graph_level == 2
    assert failed
    assert engine.runner.runtime.graphs.room_made == 1


@pytest.mark.parametrize("mode", ["diffusion", "ar", "lossless"])
@pytest.mark.parametrize("fails_at", ["MoeDown", "MambaMixer", "SplitPredict"])
def test_a_first_run_short_of_memory_is_made_again_without_other_buffers(on_device, mode, fails_at):
    """A library takes memory of its own in its first run; what that had begun does no harm."""
    from ttc.plugins.naive import run_naive

    failed, allowed = [], None

    def short_once(op, *inputs, **attributes):
        nonlocal allowed
        if op.name == fails_at and allowed is not None and not failed:
            allowed -= 1
            if allowed < 0 or fails_at == "SplitPredict":
                failed.append(1)
                raise DeviceMemoryError("cublasCreate: out of memory")
        return run_naive(op, *inputs, **attributes)

    options = {"mode": mode, "draft_steps": 2, **LONG}
    want = on_device("tiny_a", 0).generate(PROMPT, **options).token_ids
    engine = on_device("tiny_a", run_op=short_once)
    backend, two = engine.runner, np.zeros((2, 1), np.int32)
    backend.context(backend.new_state(2, 512), two, two[:, 0], two)  # leaves buffers behind
    allowed = 2
    assert engine.generate(PROMPT, **options).token_ids == want
    assert failed
    assert engine.runner.runtime.graphs.room_made == len(failed)


def test_only_a_thread_that_has_run_a_work_captures_it(on_device, fake_device):
    """A library may keep handles by thread, and make them in its first call there."""
    engine, seen = on_device("tiny_a"), []

    def noting(real):
        def capture(work, *more):
            seen.append(threading.get_ident())
            return real(work, *more)

        return capture

    fake_device.capture = noting(fake_device.capture)
    fake_device.capture_loop = noting(fake_device.capture_loop)
    options = {"max_new_tokens": 1, "block_size": 8, "steps": 1, "threshold": 0.0, "stop_at_eos": False}
    engine.generate(PROMPT, **options)
    assert not seen, "one block: everything has run once"
    thread = threading.Thread(target=lambda: engine.generate(PROMPT, **options))
    thread.start()
    thread.join()
    assert not seen, "the other thread runs them first"
    engine.generate(PROMPT, **options)
    thread = threading.Thread(target=lambda: engine.generate(PROMPT, **LONG))
    thread.start()
    thread.join()
    assert set(seen) == {thread.ident}, "the one that has run a work twice on end"


def test_what_advance_needs_is_kept_on_demand(on_device, fake_device):
    """A call that nobody will advance has no room for it, and copies nothing there."""
    backend = on_device("tiny_c").runner
    state, one, place = backend.new_state(1, 64), np.ones(1, np.int32), np.zeros((1, 1), np.int32)

    def taken(save):
        before = sum(block.nbytes for block in fake_device.blocks.values())
        backend.context(state, np.full((1, 4), 5, np.int32), one, place, save)
        return sum(block.nbytes for block in fake_device.blocks.values()) - before

    assert 0 < taken(save=False) < taken(save=True)
    assert taken(save=False) == taken(save=True) == 0
