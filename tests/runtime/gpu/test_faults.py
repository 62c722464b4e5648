"""Errors in the middle of a generation, of all three kinds, and closing afterwards."""

import gc

import pytest

from ttc.errors import BackendError, DeviceMemoryError

PROMPT = [5, 6, 7, 8]
LONG = {"max_new_tokens": 40, "block_size": 8, "steps": 8, "stop_at_eos": False}
# Leaves until the error: in the first context call, and inside a block's graph.
EARLY, LATE = 5, 120


@pytest.mark.parametrize("operations", [EARLY, LATE])
@pytest.mark.parametrize(
    ("said", "error"),
    [
        ("CUDA_ERROR_INVALID_VALUE", BackendError),
        ("CUDA out of memory. Tried to allocate 2.00 GiB", DeviceMemoryError),
    ],
)
def test_after_an_error_that_passes_the_engine_goes_on(on_device, fake_device, operations, said, error):
    engine = on_device("tiny_a")
    want = engine.generate(PROMPT, **LONG).token_ids
    fake_device.fail_with, fake_device.fail_in = said, operations
    with pytest.raises(error, match=f"cuda:0: {said[:16]}"):
        [engine.generate(PROMPT, **LONG) for _ in range(20)]
    assert engine.generate(PROMPT, **LONG).token_ids == want
    engine.close()
    gc.collect()
    assert not fake_device.blocks
    assert on_device("tiny_a").generate(PROMPT, **LONG).token_ids == want


@pytest.mark.parametrize("operations", [EARLY, LATE])
def test_after_an_error_that_stays_every_call_says_so(on_device, fake_device, operations):
    engine = on_device("tiny_a")
    engine.generate(PROMPT, **LONG)
    fake_device.fail_in = operations
    kept = r"cuda:0: CUDA_ERROR_ILLEGAL_ADDRESS; .*start the process again"
    with pytest.raises(BackendError, match=kept):
        [engine.generate(PROMPT, **LONG) for _ in range(20)]
    with pytest.raises(BackendError, match=kept):
        engine.generate(PROMPT, **LONG)
    engine.close()
    engine.close()
    assert fake_device.closed
    with pytest.raises(BackendError, match="closed"):
        engine.generate(PROMPT, **LONG)
    # A new engine on the same GPU in the same process says so too.
    with pytest.raises(BackendError, match=kept):
        on_device("tiny_a", 0).generate(PROMPT, **LONG)


def test_closing_goes_on_whatever_a_library_raises(on_device, fake_device, caplog):
    engine = on_device("tiny_a")
    engine.generate(PROMPT, **LONG)

    def refuse(*_):
        raise RuntimeError("a library's own error")

    executor = engine.runner.runtime.executor
    for graph in fake_device.graphs:
        graph.close = refuse
    executor.close = refuse
    engine.close()
    gc.collect()
    assert not fake_device.blocks
    assert fake_device.closed
    assert caplog.text.count("RuntimeError: a library's own error") == len(fake_device.graphs) + 1
