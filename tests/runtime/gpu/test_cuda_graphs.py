"""The modes of CUDA graphs over a fake device: same tokens, same steps, and nothing moves."""

import gc
import threading

import numpy as np
import pytest

from tests.support import tolerances
from tests.support.compare import assert_close, assert_equal
from tests.support.fake_device import REFUSED_CODE, FakeDevice, no_compiler
from tests.support.golden import CHECKPOINTS, golden
from tests.support.recorded import options_of, recorded, tokens_of
from ttc.base.distribution import extra, install
from ttc.base.dtypes import numpy_dtype
from ttc.errors import BackendError, DeviceMemoryError, InputError, MissingDependencyError
from ttc.runtime.gpu.cuda_driver import loop_problem
from ttc.runtime.gpu.device import Scope
from ttc.runtime.gpu.lengths import padded_length
from ttc.runtime.gpu.pinned_staging import PinnedStaging
from ttc.runtime.interface.backend import Limits

LEVELS = (0, 1, 2)
PROMPT = [5, 6, 7, 8]
LONG = {"max_new_tokens": 40, "block_size": 8, "steps": 8, "stop_at_eos": False}


@pytest.mark.parametrize("level", LEVELS)
@pytest.mark.parametrize("name", CHECKPOINTS)
def test_golden_tokens(on_device, name, level):
    engine = on_device(name, level)
    g = golden(name)
    for case_name, case in recorded(name).items():
        prompt = g.prompt(case)[0].tolist()
        result = engine.generate(prompt, options_of(case))
        assert_equal(result.token_ids, tokens_of(g, case_name), case_name)
        assert list(result.stats.nfe_per_block) == case["nfe_per_block"], case_name
        assert result.stats.graph_level == level
        assert not [note for note in result.stats.notes if "graph" in note]


@pytest.mark.parametrize("mode", ["ar", "mock-ar"])
def test_golden_tokens_of_the_other_modes(on_device, mode):
    g, prefix = golden("tiny_b"), {"ar": "generate_ar/", "mock-ar": "generate_mock_ar/"}[mode]
    cases = {n: c for n, c in g.cases_of(prefix).items() if g.prompt(c).shape[0] == 1}
    engine = on_device("tiny_b")
    for name, case in list(cases.items())[::4]:
        prompt = g.prompt(case)[0].tolist()
        eos = case["eos_token_id"]
        result = engine.generate(
            prompt,
            mode=mode,
            max_new_tokens=case["max_new_tokens"],
            eos_token_id=eos,
            stop_at_eos=eos is not None,
        )
        assert_equal(result.token_ids, tokens_of(g, name), name)


def test_events_and_sampling_are_those_of_the_torch_backend(on_device, engines):
    """Batches whose rows end at different times, sampled: every event, on every level."""
    prompts = [PROMPT, [9, 10], [3, 4, 5, 6, 7, 8, 9, 10, 11]]
    options = {"max_new_tokens": 40, "block_size": 8, "temperature": 0.9, "seed": 4}
    free = engines("tiny_a", "torch").generate(prompts, stop_at_eos=False, **options)
    options["eos_token_id"] = [free[0].token_ids[12]]
    want = list(engines("tiny_a", "torch").stream(prompts, **options))
    assert len({event.step for event in want}) > 2
    last = {event.row: event.block_index for event in want}
    assert len(set(last.values())) > 1, "rows end at different times"
    for level in LEVELS:
        got = list(on_device("tiny_a", level).stream(prompts, **options))
        assert [without_confidence(event) for event in got] == [without_confidence(e) for e in want]


def without_confidence(event):
    return (event.row, event.block_index, event.step, event.token_ids, event.masked, event.committed)


def test_extension_committed_afterwards(on_device, engines):
    prompt, block = np.array([PROMPT], np.int32), np.array([[9, 10, 11, 12, 13]], np.int32)
    place, none, three = np.zeros((1, 1), np.int32), np.zeros(1, np.int32), np.array([3], np.int32)
    found = []
    for backend in (on_device("tiny_a").runner, engines("tiny_a", "torch").runner):
        state = backend.new_state(1, 64)
        backend.context(state, prompt, np.array([4], np.int32), place)
        for _ in range(3):  # eager, captured, replayed
            call = backend.context(state, block, none, place, save=True)
            backend.advance(state, call.saved, three)
        assert state.lengths.tolist() == [13]
        found.append(backend.read_state(state))
    for name, want in found[1].items():
        rows = 13 if "cache" in name else want.shape[2]
        # The device reads 8 tokens where the other reads 5, so sums of the scan are grouped otherwise.
        assert_close(found[0][name][:, :, :rows], want[:, :, :rows], tolerances.CACHES, name)


@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
def test_a_state_goes_out_and_in_again(on_device, dtype):
    """In float32, whatever is computed in; what was not written is not there."""
    backend = on_device("tiny_a", compute_dtype=dtype).runner
    draw = np.random.default_rng(3)
    state = backend.new_state(2, 32)
    tensors = {}
    for name, array in backend.read_state(state).items():
        assert array.dtype == np.float32
        assert not array.any()
        kept = array.dtype if name.startswith("ssm") else numpy_dtype(dtype)
        tensors[name] = draw.standard_normal(array.shape).astype(kept)
    again = backend.write_state(32, np.array([3, 7]), tensors)
    assert (again.lengths.tolist(), again.lengths.dtype) == ([3, 7], np.int32)
    for name, array in backend.read_state(again).items():
        assert_equal(array, tensors[name].astype(np.float32), name)


def test_lossless_writes_what_ar_writes(on_device):
    engine = on_device("tiny_a")
    prompts = [PROMPT, [9, 10, 11]]
    options = {"max_new_tokens": 24, "stop_at_eos": False}
    ar = engine.generate(prompts, mode="ar", **options)
    lossless = engine.generate(prompts, mode="lossless", block_size=8, **options)
    assert [row.token_ids for row in lossless] == [row.token_ids for row in ar]
    assert lossless[0].stats.graph_level == 2


def test_nothing_is_allocated_after_the_first_generation(on_device, fake_device):
    engine = on_device("tiny_a")
    engine.generate(PROMPT, **LONG)
    gc.collect()
    allocations, blocks = fake_device.allocations, sorted(fake_device.blocks)
    for _ in range(2):
        engine.generate(PROMPT, **LONG)
    assert (fake_device.allocations, sorted(fake_device.blocks)) == (allocations, blocks)


def test_a_block_is_one_launch_and_one_wait(on_device, fake_device):
    engine = on_device("tiny_a")
    engine.generate(PROMPT, **LONG)
    backend, counted = engine.runner, []
    real = backend.fill_blocks

    def counting(*arguments):
        before = fake_device.launches, fake_device.waits
        steps = real(*arguments)
        counted.append((fake_device.launches - before[0], fake_device.waits - before[1], len(steps)))
        return steps

    backend.fill_blocks = counting
    engine.generate(PROMPT, **LONG)
    assert len(counted) == 5
    # The wait fetches what the steps gave; until then the host knows nothing of them.
    assert {(launches, waits) for launches, waits, _ in counted} == {(1, 1)}
    assert max(steps for *_, steps in counted) > 1


def test_warming_up_captures_everything(on_device, fake_device):
    engine = on_device("tiny_a")
    engine.warm_up(tokens=64, block_size=8)
    allocations = fake_device.allocations
    graphs = count_captures(fake_device)
    result = engine.generate(PROMPT, **LONG)
    assert result.stats.graph_level == 2
    assert fake_device.allocations == allocations
    assert not graphs


def count_captures(device):
    made = []
    for name in ("capture", "capture_loop"):
        real = getattr(device, name)
        setattr(device, name, lambda *work, real=real: made.append(1) or real(*work))
    return made


def test_two_threads_generate_what_one_does(on_device):
    engine = on_device("tiny_a")
    want = engine.generate(PROMPT, **LONG).token_ids
    found = []
    threads = [
        threading.Thread(target=lambda: found.append(engine.generate(PROMPT, **LONG).token_ids))
        for _ in range(2)
    ]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert found == [want, want]


def test_an_old_driver_gives_level_1(on_device, fake_device):
    assert loop_problem(12040) is None
    fake_device.loop_problem = loop_problem(12030)
    result = on_device("tiny_a").generate(PROMPT, **LONG)
    assert result.stats.graph_level == 1
    assert any("level 1 in place of 2" in note and "CUDA 12.3" in note for note in result.stats.notes)


def test_a_refused_capture_falls_back_one_level_at_a_time(on_device, fake_device):
    want = on_device("tiny_a", 0).generate(PROMPT, **LONG).token_ids
    engine = on_device("tiny_a")
    real = fake_device.capture_loop
    fake_device.capture_loop = lambda *_: (_ for _ in ()).throw(BackendError("no loops today"))
    result = engine.generate(PROMPT, **LONG)
    assert result.token_ids == want
    assert result.stats.graph_level == 1
    assert "no loops today" in result.stats.notes[0]
    fake_device.capture_loop = real
    fake_device.refuse_capture = "no captures today"
    engine = on_device("tiny_a")
    result = engine.generate(PROMPT, **LONG)
    assert (result.token_ids, result.stats.graph_level) == (want, 0)
    assert "no captures today" in result.stats.notes[0]


def test_work_that_cannot_be_captured_stays_at_level_0(on_device):
    engine = on_device("tiny_a", 2, capture_problem="the ops wait for the GPU")
    result = engine.generate(PROMPT, **LONG)
    assert result.stats.graph_level == 0
    assert "because the ops wait for the GPU" in result.stats.notes[0]


def test_a_level_that_is_none(on_device):
    with pytest.raises(InputError, match="graph_level is 3; valid: 0"):
        on_device("tiny_a", 3)


def test_out_of_memory_leaves_the_engine_usable(on_device, fake_device):
    engine = on_device("tiny_a")
    want = engine.generate(PROMPT, **LONG).token_ids
    used = fake_device.total - fake_device.free_bytes()[0]
    fake_device.total = 3 * used
    with pytest.raises(DeviceMemoryError, match=r"are free; ask for a smaller batch or capacity"):
        engine.generate([PROMPT] * 64, **LONG)
    gc.collect()
    assert fake_device.total - fake_device.free_bytes()[0] <= 2 * used
    assert engine.generate(PROMPT, **LONG).token_ids == want


@pytest.mark.parametrize("mode", ["diffusion", "ar", "mock-ar", "lossless"])
def test_closing_gives_everything_back(on_device, fake_device, mode):
    gc.collect()
    gc.disable()  # nothing may have to wait for the collector
    try:
        engine = on_device("tiny_a")
        for prompt in (PROMPT, [PROMPT, [9, 10]]):
            engine.generate(prompt, mode=mode, **LONG)
            engine.generate(prompt, mode=mode, **LONG)
        engine.context_logits(PROMPT)
        assert fake_device.blocks
        assert fake_device.pinned_bytes
        assert fake_device.graphs
        engine.close()
        assert not fake_device.blocks
        assert not fake_device.pinned_bytes
        assert all(graph.closed for graph in fake_device.graphs)
    finally:
        gc.enable()


def test_pinned_memory_for_logits_is_bounded(fake_device):
    """One piece of it, as large as the largest array, and never larger than its bound."""
    staging, scope = PinnedStaging(fake_device, most=100), Scope(fake_device)
    for count in (5, 20, 10, 75):
        values = np.arange(count, dtype=np.int32)
        array = scope.array("int32", (count,))
        staging.write(array, values)
        assert_equal(staging.read(array), values, str(count))
        assert list(fake_device.pinned_bytes.values()) == [max(fake_device.pinned_bytes.values())]
    assert list(fake_device.pinned_bytes.values()) == [100]
    staging.close()
    assert not fake_device.pinned_bytes


@pytest.mark.parametrize(
    ("capture", "growths", "level"), [("capture_loop", 1, 2), ("capture_loop", 2, 1), ("capture", 2, 0)]
)
def test_a_capture_that_takes_scratch_memory_is_not_used(on_device, fake_device, capture, growths, level):
    """Once: it is captured again. Twice: one level less."""
    want = on_device("tiny_a", 0).generate(PROMPT, **LONG).token_ids
    taken, real = [], getattr(fake_device, capture)

    def growing(*work):
        if len(taken) < growths:
            taken.append(1)
        return real(*work)

    setattr(fake_device, capture, growing)
    result = on_device("tiny_a", scratch=lambda: len(taken)).generate(PROMPT, **LONG)
    assert (result.token_ids, result.stats.graph_level) == (want, level)
    assert any("took scratch memory each time" in note for note in result.stats.notes) == (level < 2)
    assert sum(graph.closed for graph in fake_device.graphs) == growths


def test_a_driver_that_refuses_ptx_gets_machine_code(on_device):
    """And where it refuses that too, both are said."""

    def newer(name, source, compute_capability):
        return REFUSED_CODE

    result = on_device("tiny_a", compilers=[newer, no_compiler]).generate(PROMPT, **LONG)
    assert result.stats.graph_level == 2
    assert not [note for note in result.stats.notes if "graph" in note]
    result = on_device("tiny_a", compilers=[newer, newer]).generate(PROMPT, **LONG)
    assert result.stats.graph_level == 1


def refuse_to_compile(name, source, compute_capability):
    raise MissingDependencyError(f"NVRTC is not installed; install it with: {install('gpu')}")


def test_without_nvrtc_a_step_is_a_graph(on_device):
    engine = on_device("tiny_a", compilers=[refuse_to_compile])
    result = engine.generate(PROMPT, **LONG)
    assert result.token_ids == on_device("tiny_a", 0).generate(PROMPT, **LONG).token_ids
    assert result.stats.graph_level == 1
    assert any("level 1 in place of 2" in note and extra("gpu") in note for note in result.stats.notes)


@pytest.mark.parametrize("level", [0, 1])
def test_below_level_2_no_kernel_is_asked_for(on_device, fake_device, level):
    fake_device.kernels.clear()
    result = on_device("tiny_a", level, compilers=[refuse_to_compile]).generate(PROMPT, **LONG)
    assert result.stats.graph_level == level
    assert not any("graph" in note for note in result.stats.notes)


def test_a_kernel_that_the_driver_refuses(on_device, fake_device):
    fake_device.kernels.clear()
    result = on_device("tiny_a").generate(PROMPT, **LONG)
    assert result.stats.graph_level == 1
    assert "refuses the kernel ttc_block_update" in result.stats.notes[0]


@pytest.mark.parametrize(
    ("length", "room", "reads", "padded"),
    [
        (1, 99, 128, 1),
        (5, 99, 128, 8),
        (16, 99, 128, 16),
        (33, 99, 128, 64),
        (33, 40, 128, 33),
        (5, 99, 6, 5),
    ],
)
def test_context_calls_come_in_few_lengths(length, room, reads, padded):
    limits = Limits((1, 1), (1, 16), (1, reads), (1, 16), (1, 4096))
    assert padded_length(length, room, limits) == padded
    assert padded_length(length, room, None) == (padded if reads == 128 else 8)


def test_the_fake_device_notices_a_capture_that_does_more_than_launch():
    device = FakeDevice()
    with pytest.raises(AssertionError, match="nothing may be allocated"):
        device.capture(lambda: device.allocate(1))
    with pytest.raises(AssertionError, match="nothing may wait"):
        device.capture(device.wait)
    with pytest.raises(AssertionError, match="no kernel set the condition"):
        device.capture_loop(lambda: None, lambda condition: None).launch()
