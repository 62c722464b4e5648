"""The towers on two devices that share no memory: golden tokens, and a state that is where it is needed."""

import gc

import numpy as np
import pytest

import ttc
from tests.support import tolerances
from tests.support.compare import assert_close
from tests.support.fake_device import no_compiler, with_loop_kernel
from tests.support.golden import golden
from tests.support.recorded import options_of, recorded, tokens_of
from ttc.errors import DeviceMemoryError, InputError
from ttc.model.bundle import Bundle
from ttc.runtime.engine import Engine
from ttc.runtime.gpu.backend import DeviceBackend
from ttc.runtime.gpu.tower_parallel import TowerParallelBackend


@pytest.fixture
def two(bundles, tower_weights):
    """An engine over two devices with the weights of one tower each, and the devices."""
    from ttc.plugins.naive import run_naive
    from ttc.runtime.backends.torch.executor import TorchExecutor

    config, weights = tower_weights("tiny_a")
    devices, backends = [], []
    with Bundle.open(bundles("tiny_a")) as bundle:
        for i, tower in enumerate(("context_tower", "denoiser_tower")):
            own = {name: weights[name] for name in bundle.weights_for(tower)}
            assert 0 < len(own) < len(weights)
            device = with_loop_kernel(name=f"cuda:{i}")
            executor = TorchExecutor(
                config, device, own, "float32", run_naive, None, used=(tower,), pooled=False
            )
            backends.append(DeviceBackend(config, device, executor, None, [no_compiler]))
            devices.append(device)
    with Engine(TowerParallelBackend(*backends)) as engine:
        yield engine, devices
    gc.collect()
    assert not any(device.blocks for device in devices), "closing gives all memory back"


def test_golden_tokens(two):
    engine, _ = two
    g = golden("tiny_a")
    for case_name, case in recorded("tiny_a").items():
        result = engine.generate(g.prompt(case)[0].tolist(), options_of(case))
        assert list(result.token_ids) == tokens_of(g, case_name), case_name
        assert result.stats.graph_level == 2


def test_gpus_that_cannot_reach_each_other_are_noted(two):
    engine, (_, second) = two
    assert not [note for note in engine.runner.notes if "by way of the host" in note]
    second.peer_problem = "cuda:1 cannot reach the memory of cuda:0 (CUDA_ERROR_PEER_ACCESS_UNSUPPORTED)"
    parts = engine.runner._context, engine.runner._denoiser
    assert [note for note in TowerParallelBackend(*parts).notes if "by way of the host" in note]


def test_batches_shrink_on_both(two, engines):
    engine, _ = two
    prompts = [[5, 6, 7], [8, 9], list(range(3, 30))]
    options = {"max_new_tokens": 40, "block_size": 8}
    free = engines("tiny_a", "torch").generate(prompts, stop_at_eos=False, **options)
    options["eos_token_id"] = [free[0].token_ids[12]]
    want = engines("tiny_a", "torch").generate(prompts, **options)
    assert len({len(row.token_ids) for row in want}) > 1
    got = engine.generate(prompts, **options)
    assert [row.token_ids for row in got] == [row.token_ids for row in want]


@pytest.mark.parametrize("choice", [{}, {"temperature": 0.9, "seed": 3, "top_k": 20}], ids=["", "filtered"])
def test_the_modes_that_write_what_ar_writes(two, engines, choice):
    """Tokens are chosen on either device, or fetched from it where the host chooses."""
    engine, _ = two
    prompts, options = [[5, 6, 7], [8, 9], list(range(3, 30))], {"max_new_tokens": 12} | choice
    reference = engines("tiny_a", "torch")
    for mode, same in (("ar", "ar"), ("lossless", "ar"), ("mock-ar", "mock-ar")):
        want, got = reference.generate(prompts, same, **options), engine.generate(prompts, mode, **options)
        assert [row.token_ids for row in got] == [row.token_ids for row in want], mode


def test_the_state_follows_before_the_host_waits(two):
    engine, (first, second) = two
    backend = engine.runner
    state = backend.new_state(1, 64)
    log = first.log = second.log = []
    ids, four, position = (
        np.array([[5, 6, 7, 8]], np.int32),
        np.array([4], np.int32),
        np.zeros((1, 1), np.int32),
    )

    def logged():
        calls = [(each.device, each.call) for each in log]
        log.clear()
        return calls

    waited, copied = ("cuda:0", "wait"), ("cuda:1", "copy_from")
    after_the_copy, event = ("cuda:0", "wait_event"), ("cuda:1", "record_event")
    backend.context(state, ids, four, position)
    caches = sum(array.nbytes for name, array in state.tensors.items() if "_cache." in name)
    assert caches * 4 // 64 <= log[1].nbytes < caches // 4, "new keys and values, not caches"
    assert logged() == [copied, copied, event, waited], "the host waits for the call, not for the copies"
    backend.context(state, ids, four * 0, position)
    assert logged() == [after_the_copy, copied, copied, event, waited], "which read what the call changes"
    saved = backend.context(state, ids, four * 0, position, save=True).saved
    log.clear()
    backend.advance(state, saved, four)
    assert logged() == [after_the_copy, waited, copied, event]
    for name, tensor in state.tensors.items():
        replica = state.tensors.replica.tensors[name]
        np.testing.assert_array_equal(first.values(tensor), second.values(replica), err_msg=name)


def test_lengths_that_are_set_back_count_on_both(two, engines):
    """As measuring drafts does."""
    block, ids, t = np.full((1, 8), 3, np.int32), np.array([[5, 6, 7, 8]], np.int32), np.ones(1, np.float32)
    logits = []
    for backend in (two[0].runner, engines("tiny_a", "torch").runner):
        state = backend.new_state(1, 64)
        backend.context(state, ids, np.array([4], np.int32), np.zeros((1, 1), np.int32))
        state.lengths = np.array([2], np.int32)
        logits.append(backend.fetch(backend.denoise(state, block, t)))
    assert_close(logits[0], logits[1], tolerances.DENOISER_LOGITS, "the denoiser sees two tokens")


def test_both_gpus_are_named(two):
    assert two[0].device == "cuda:0,cuda:1"


def test_a_state_written_from_the_host_reaches_both(two, engines):
    backend, reference = two[0].runner, engines("tiny_a", "torch").runner
    positions, t = np.zeros((1, 1), np.int32), np.ones(1, np.float32)
    before = reference.new_state(1, 64)
    reference.context(before, np.array([[5, 6, 7, 8]], np.int32), np.array([4], np.int32), positions)
    written = backend.write_state(64, before.lengths, reference.read_state(before))
    for name, want in reference.read_state(before).items():
        np.testing.assert_array_equal(backend.read_state(written)[name], want, err_msg=name)
    block = np.full((1, 8), 3, np.int32)
    logits = [b.fetch(b.denoise(s, block, t)) for b, s in ((backend, written), (reference, before))]
    assert_close(logits[0], logits[1], tolerances.DENOISER_LOGITS, "the denoiser sees the state")


def test_warming_up_both(two):
    engine, (first, second) = two
    engine.warm_up(tokens=64, block_size=8)
    allocations = first.allocations, second.allocations
    engine.generate([5, 6, 7], max_new_tokens=40, block_size=8, stop_at_eos=False)
    assert (first.allocations, second.allocations) == allocations


@pytest.mark.parametrize("device", ["cuda:0,cpu", "cuda:0,cuda:0", "cuda:0,cuda:1,cuda:2"])
def test_devices_that_are_no_two_gpus(bundles, device):
    with pytest.raises(InputError, match="or with a tower on each of two GPUs"):
        ttc.load(bundles("tiny_a"), "torch", device)


def test_no_room_on_the_second_gpu_leaves_both_as_they_were(two, engines):
    """What new keys and values arrive in is made before the context tower moves its state."""
    engine, (_, second) = two
    backend, reference = engine.runner, engines("tiny_a", "torch").runner
    ids, positions = np.array([[5, 6, 7, 8]], np.int32), np.zeros((1, 1), np.int32)
    states = [b.new_state(1, 64) for b in (backend, reference)]
    second.total -= second.free_bytes()[0]
    with pytest.raises(DeviceMemoryError, match="cuda:1"):
        backend.context(states[0], ids, np.array([4], np.int32), positions)
    assert states[0].lengths.tolist() == [0]
    second.total = 2**40
    for b, state in zip((backend, reference), states, strict=True):
        b.context(state, ids, np.array([4], np.int32), positions)
    block, t = np.full((1, 8), 3, np.int32), np.ones(1, np.float32)
    logits = [b.fetch(b.denoise(s, block, t)) for b, s in zip((backend, reference), states, strict=True)]
    assert_close(logits[0], logits[1], tolerances.DENOISER_LOGITS, "after room was made")
