"""Engines on a fake device: too little memory, before and while they run, and the weights' progress."""

import importlib

import numpy as np
import pytest

import ttc
from tests.support.fake_engines import FakeContext, FakeEngine
from ttc.errors import DeviceMemoryError
from ttc.model.bundle import Bundle


def test_the_second_gpu_is_too_small(bundles, engine_folders, fake_gpus):
    fake_gpus[1].total = 2**30
    with pytest.raises(DeviceMemoryError, match=r"cuda:1 has 1\.1 GB free, .* due: weights denoiser"):
        ttc.load(bundles("tiny_a"), "tensorrt-rtx", "cuda:0,cuda:1", engines=engine_folders("tiny_a"))
    assert not any(device.blocks for device in fake_gpus)
    assert all(device.closed for device in fake_gpus)


def test_memory_that_runs_out_between_engines(bundles, engine_folders, fake_gpu, monkeypatch):
    """Wherever it does: the next try binds them to scratch memory that is there."""
    run, allocate = FakeContext.execute_async_v3, fake_gpu.allocate
    scratch = property(lambda engine: 1000 * len(engine.session.get_inputs()))
    monkeypatch.setattr(FakeEngine, "device_memory_size_v2", scratch)

    def execute(context, stream):
        assert context.memory[0] in fake_gpu.blocks, "scratch memory that was given back"
        return run(context, stream)

    monkeypatch.setattr(FakeContext, "execute_async_v3", execute)
    with ttc.load(bundles("tiny_a"), "tensorrt-rtx", engines=engine_folders("tiny_a")) as engine:
        backend, refused = engine.runner, 0
        state = backend.new_state(1, 64)
        while True:
            left = iter(range(refused, -1, -1))

            def scarce(nbytes, left=left):
                if next(left, None) == 0:
                    raise DeviceMemoryError("cuda:0: too little is free")
                return allocate(nbytes)

            fake_gpu.allocate = scarce
            try:
                backend.buffers_of(state).context(4, 1, save=False)
                break
            except DeviceMemoryError:
                refused += 1
        assert refused > 3
        ids, place = np.array([[5, 6, 7, 8]], np.int32), np.zeros((1, 1), np.int32)
        backend.context(state, ids, np.array([4], np.int32), place)


def test_too_little_memory_is_known_before_an_engine_is_touched(bundles, engine_folders, fake_gpu, api):
    fake_gpu.total = 2**30
    with pytest.raises(DeviceMemoryError, match=r"cuda:0 has 1\.1 GB free, .* are due: weights"):
        ttc.load(bundles("tiny_a"), "tensorrt-rtx", engines=engine_folders("tiny_a"))
    assert not api.calls
    assert not fake_gpu.blocks


def test_scratch_memory_is_there_once_and_addresses_are_told_once(
    bundles, engine_folders, fake_gpu, monkeypatch
):
    """As large as the largest engine wants it, whichever is bound first; a replay tells an engine nothing."""
    run, tell = FakeContext.execute_async_v3, FakeContext.set_tensor_address
    scratch = property(lambda engine: 1000 * len(engine.session.get_inputs()))
    monkeypatch.setattr(FakeEngine, "device_memory_size_v2", scratch)
    wanted, given = set(), set()

    def execute(context, stream):
        wanted.add(context.engine.device_memory_size_v2)
        given.add(context.memory[1])
        return run(context, stream)

    def address(context, name, memory):
        assert context.addresses.get(name) != memory
        return tell(context, name, memory)

    monkeypatch.setattr(FakeContext, "execute_async_v3", execute)
    monkeypatch.setattr(FakeContext, "set_tensor_address", address)
    with ttc.load(bundles("tiny_a"), "tensorrt-rtx", engines=engine_folders("tiny_a")) as engine:
        engine.generate([5, 6, 7], mode="ar", max_new_tokens=3)
        engine.generate([5, 6, 7], max_new_tokens=16)
    assert len(wanted) > 1
    assert len(given) == 1
    assert max(wanted) <= max(given)


def test_the_progress_of_the_weights(bundles, engine_folders, fake_gpu):
    seen = []
    load = {"engines": engine_folders("tiny_a"), "progress": lambda done, total: seen.append((done, total))}
    with ttc.load(bundles("tiny_a"), "tensorrt-rtx", **load), Bundle.open(bundles("tiny_a")) as bundle:
        total = sum(bundle.read_weight(name).nbytes for name in bundle.weights)
    assert seen[-1] == (total, total)
    assert [done for done, _ in seen] == sorted(done for done, _ in seen)
    assert importlib.import_module("ttc.runtime.gpu.weights").STAGING_BYTES > 0
