"""States that are used again: empty whatever they held, bounded, and gone when they should be."""

import threading
from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np
import pytest

from ttc.model.bundle import Bundle
from ttc.runtime.backends.onnxruntime import spare_states
from ttc.runtime.backends.onnxruntime.load import load
from ttc.runtime.backends.onnxruntime.run import OnnxRuntimeBackend
from ttc.runtime.backends.onnxruntime.spare_states import SpareStates
from ttc.runtime.engine import Engine
from ttc.runtime.interface.settings import LoadSettings
from ttc.runtime.interface.state import ContextState

Bundles = Callable[..., Path]
PROMPT = list(range(5, 26))
KB = 1024


@pytest.fixture(params=[True, False], ids=["native", "bodies"])
def backend(request: pytest.FixtureRequest, bundles: Bundles) -> Iterator[OnnxRuntimeBackend]:
    with Bundle.open(bundles("tiny_b")) as bundle:
        made = load(bundle, LoadSettings(threads=1), native=request.param)
    yield made
    made.close()


def state(capacity: int, kilobytes: int) -> ContextState:
    """A state that holds so much."""
    return ContextState(capacity, np.zeros(1, np.int32), {"x": np.zeros((1, kilobytes * KB), np.int8)})


def answers(backend: OnnxRuntimeBackend, state: ContextState) -> list[np.ndarray]:
    """What the calls of a short text give, for every row."""
    rows = state.batch
    ids = np.array([PROMPT] * rows, np.int32)
    last, whole = np.full((rows, 1), len(PROMPT) - 1, np.int32), np.full(rows, len(PROMPT), np.int32)
    found = [backend.fetch(backend.context(state, ids, whole, last).logits)]
    found.append(backend.fetch(backend.denoise(state, ids[:, :8], np.full(rows, 0.5, np.float32))))
    none = np.zeros(rows, np.int32)
    call = backend.context(state, ids[:, :8], none, none[:, None], save=True)
    backend.advance(state, call.saved, none + 3)
    found.append(backend.fetch(backend.context(state, ids[:, :1], none + 1, none[:, None]).logits))
    return [array.copy() for array in found]


def poison(state: ContextState) -> None:
    """Put NaN wherever a row, or a call of one, may have written."""
    for tensor in state.tensors.values():
        for row, touched in enumerate(state.touched.tolist()):
            if tensor.shape[2:3] == (state.capacity,):
                tensor[row, :, :touched] = np.nan
            else:
                tensor[row] = np.nan
    for binding in getattr(state, "bindings", {}).values():
        for array in binding.outputs.values():
            if array.base is None:
                array.fill(np.nan)
    given = [*getattr(state, "mamba", {}).values(), getattr(state, "parts", {})]
    for array in (array for arrays in given for array in arrays.values()):
        array[: state.batch] = np.nan


@pytest.mark.parametrize("rows", [1, 2, 5])
def test_a_poisoned_state_is_used_again(backend: OnnxRuntimeBackend, rows: int) -> None:
    first = backend.new_state(2, 64)
    answers(backend, first)
    fresh = backend.new_state(rows, 64)
    assert fresh is not first
    want = answers(backend, fresh)
    poison(first)
    backend.release(first)
    again = backend.new_state(rows, 64)
    assert again is first
    assert again.batch == rows
    assert not any(np.any(tensor[: max(rows, 2)]) for tensor in again.tensors.values())
    for one, other in zip(answers(backend, again), want, strict=True):
        assert np.array_equal(one, other)


def test_rows_that_left_before_are_empty_too(backend: OnnxRuntimeBackend) -> None:
    used = backend.new_state(3, 64)
    answers(backend, used)
    backend.clear_rows(used, np.array([2], np.int32))
    backend.resize(used, 2)
    assert used.held_bytes >= 3 * used.nbytes // 2, "its memory is still there"
    backend.release(used)
    assert not any(np.any(tensor[:3]) for tensor in backend.new_state(3, 64).tensors.values())


def test_other_capacities_are_no_use(backend: OnnxRuntimeBackend) -> None:
    small = backend.new_state(1, 64)
    backend.release(small)
    assert backend.new_state(1, 128) is not small
    assert backend.new_state(1, 64) is small


def test_closing_gives_the_memory_back(backend: OnnxRuntimeBackend) -> None:
    used = backend.new_state(1, 64)
    answers(backend, used)
    held = used.held_bytes
    backend.release(used)
    assert backend.spare_bytes == held >= used.nbytes
    backend.close()
    assert backend.spare_bytes == 0
    backend.release(used)
    assert backend.spare_bytes == 0


def test_the_bound() -> None:
    spares = SpareStates(100 * KB)
    first, second, third = state(128, 40), state(256, 40), state(512, 40)
    for each in (first, second):
        spares.put(each)
    assert spares.nbytes == 80 * KB
    spares.put(third)
    assert spares.nbytes == 80 * KB
    assert spares.take(128) is None, "it had waited longest"
    assert spares.take(256) is second
    assert spares.nbytes == 40 * KB
    spares.put(state(1024, 101))
    assert (spares.nbytes, spares.take(1024)) == (40 * KB, None), "too large for all of them"
    other = state(512, 50)
    spares.put(other)
    assert spares.nbytes == 50 * KB, "one of a capacity"
    assert spares.take(512) is other
    assert (spares.nbytes, spares.take(512)) == (0, None)


def test_many_rows_are_counted_as_they_once_were() -> None:
    spares, used = SpareStates(100 * KB), state(128, 40)
    used.resize(3)
    used.resize(1)
    spares.put(used)
    assert spares.nbytes == 0


def test_short_memory_is_not_kept(monkeypatch: pytest.MonkeyPatch) -> None:
    spares = SpareStates(100 * KB)
    spares.put(state(128, 40))
    monkeypatch.setattr(spare_states, "free_bytes", lambda: 99 * KB)
    spares.put(state(256, 40))
    assert (spares.nbytes, spares.take(128), spares.take(256)) == (0, None, None)


def test_threads_share_it() -> None:
    spares, faults, taken = SpareStates(100 * KB), [], set[int]()
    lock = threading.Lock()

    def work(capacity: int) -> None:
        for _ in range(300):
            mine = spares.take(capacity) or state(capacity, 30)
            with lock:
                if id(mine) in taken:
                    faults.append(capacity)
                taken.add(id(mine))
            with lock:
                taken.discard(id(mine))
            spares.put(mine)

    threads = [threading.Thread(target=work, args=(128 * (1 + i % 4),)) for i in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert not faults
    assert 0 < spares.nbytes <= 100 * KB
    spares.clear()
    assert spares.nbytes == 0


@pytest.mark.parametrize("mode", ["ar", "diffusion", "lossless", "prompt-lookup"])
def test_an_engine_uses_its_states_again(bundles: Bundles, mode: str) -> None:
    options = {"mode": mode, "max_new_tokens": 20, "stop_at_eos": False, "draft_steps": 2}
    with Bundle.open(bundles("tiny_b")) as bundle:
        backend = load(bundle, LoadSettings(threads=1))
    with Engine(backend) as engine:
        want = [engine.generate(PROMPT[:length], **options).token_ids for length in (21, 3, 12)]
        held = engine.core.snapshot().spare_bytes
        assert held > 0
        assert engine.core.snapshot().state_bytes == 0
        for _ in range(3):
            got = [engine.generate(PROMPT[:length], **options).token_ids for length in (21, 3, 12)]
            assert got == want
        assert engine.core.snapshot().spare_bytes == held, "the same states, and the same calls"
        engine.context_logits(PROMPT)
        engine.denoiser_logits(PROMPT, [3] * 16, 1.0)
        assert engine.core.snapshot().spare_bytes >= held, "they are given back"
        assert [engine.generate(PROMPT[:length], **options).token_ids for length in (21, 3, 12)] == want
    assert engine.core.snapshot().spare_bytes == 0
