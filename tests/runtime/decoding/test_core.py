"""The core over a model without weights: seats, ends, and tokens, whatever comes and goes."""

from dataclasses import replace

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tests.support.chains import Chain
from tests.support.golden import golden
from ttc.errors import DeadlineExceeded, NumericsError
from ttc.runtime.decoding.clock import VirtualClock
from ttc.runtime.decoding.core import Core
from ttc.runtime.decoding.device import BackendDevice
from ttc.runtime.decoding.modes.table import ModeTable
from ttc.runtime.decoding.options import GenerationOptions, check_options
from ttc.runtime.decoding.plan import CoreLimits
from ttc.runtime.decoding.request import Cancel, RowRequest
from ttc.runtime.decoding.rows import Phase
from ttc.runtime.decoding.speculative.policy import DraftPolicies
from ttc.runtime.decoding.work import Read

CONFIG = golden("tiny_a").config
V = CONFIG.vocab_size
CHUNK = 8


class Counting(Chain):
    """A chain whose states count their moves, and whose rows can be made to give NaN."""

    def __init__(self, quality=1.0):
        logits = np.random.default_rng(3).standard_normal((V, V)).astype(np.float32)
        logits[:, [CONFIG.mask_token_id, *CONFIG.eos_token_ids]] = -30.0
        super().__init__(CONFIG, logits, quality)
        self.copies = 0
        self.poisoned = set()

    def copy_row(self, source, row, target, to):
        self.copies += 1
        super().copy_row(source, row, target, to)

    def denoise(self, state, block_ids, t, rows=None):
        said = super().denoise(state, block_ids, t, rows)
        return self._spoil(said, state.rows(rows))

    def context(self, state, input_ids, commit_len, logit_positions, save=False, rows=None):
        call = super().context(state, input_ids, commit_len, logit_positions, save, rows)
        self._spoil(call.logits, state.rows(rows))
        return call

    def _spoil(self, logits, rows):
        logits[np.isin(rows, list(self.poisoned))] = np.nan
        return logits


def make_core(backend, clock=None, rows=4, tokens=None, prompt_tokens=16):
    table = ModeTable(backend, DraftPolicies(backend, 4096).policy, 4096)
    return Core(BackendDevice(backend, 4096, clock), table, CoreLimits(rows, tokens, prompt_tokens), CHUNK)


def request(prompt, mode="ar", new=6, **changes):
    given = {"mode": mode, "max_new_tokens": new, "stop_at_eos": False, "draft_steps": 2}
    options = check_options(GenerationOptions(**given), CONFIG)
    return RowRequest(tuple(prompt), options, 1, new, **changes)


def run(core, rows):
    for _ in range(2000):
        if all(row.finish_reason for row in rows):
            return
        core.tick()
    raise AssertionError("some row never ended")


def alone(prompt, mode, new):
    core = make_core(Counting())
    row = core.submit(request(prompt, mode, new))
    run(core, [row])
    return row.tokens


modes = st.sampled_from(["ar", "mock-ar", "lossless", "prompt-lookup", "diffusion"])
asked = st.tuples(
    st.lists(st.integers(4, V - 1), min_size=1, max_size=30),
    modes,
    st.integers(1, 20),
    st.sampled_from(["run", "cancel", "late"]),
    st.integers(0, 3),
)


@settings(max_examples=60)
@given(st.lists(asked, min_size=1, max_size=9), st.integers(1, 5))
def test_rows_come_and_go(requests, most_rows):
    """Submitted, cancelled, overdue: one end each with the right reason, seats back, tokens as alone."""
    clock, backend = VirtualClock(), Counting()
    core = make_core(backend, clock, rows=most_rows)
    ended = []
    core.ended = ended.append
    rows, cancels = [], []
    for prompt, mode, new, fate, wait in requests:
        cancel = Cancel()
        deadline = clock.now() + 3.0 if fate == "late" else None
        rows.append(core.submit(request(prompt, mode, new, cancels=(cancel,), deadline=deadline)))
        cancels.append(cancel)
        for _ in range(wait):
            core.tick()
            clock.advance(1.0)
            assert core.running <= most_rows
        if fate == "cancel":
            cancel.cancel()
    for _ in range(2000):
        if core.idle:
            break
        before = {row.id: _progress(row) for row in rows}
        core.tick()
        clock.advance(1.0)
        moved = [row for row in rows if row.finish_reason or before[row.id] != _progress(row)]
        assert moved, "a tick moves somebody"
    assert core.idle
    assert sorted(row.id for row in ended) == [row.id for row in rows]
    for row, (prompt, mode, new, fate, _) in zip(rows, requests, strict=True):
        if row.finish_reason == "cancelled":
            assert fate == "cancel"
        elif row.finish_reason == "error":
            assert fate == "late"
            assert isinstance(row.error, DeadlineExceeded)
        else:
            assert row.finish_reason == "length"
            if mode not in ("mock-ar", "diffusion"):  # whose denoiser is right by chance
                assert row.tokens == alone(prompt, mode, new)
        assert row.seat is None
    assert not core.seats.in_use


def _progress(row):
    return len(row.tokens), row.length, sum(row.nfe_per_block), row.phase


def test_a_cancelled_row_is_gone_after_one_tick():
    core, cancel = make_core(Counting()), Cancel()
    row = core.submit(request([5, 6, 7], new=500, cancels=(cancel,)))
    other = core.submit(request([8, 9], new=500))
    for _ in range(3):
        core.tick()
    cancel.cancel()
    core.tick()
    assert row.finish_reason == "cancelled"
    assert core.running == 1
    assert other.finish_reason is None


@pytest.mark.parametrize("ticks", [1, 2, 3])
@pytest.mark.parametrize("mode", ["ar", "mock-ar", "lossless", "diffusion"])
def test_nan_is_the_end_of_its_row_only(mode, ticks):
    backend = Counting()
    core = make_core(backend, rows=8, prompt_tokens=64)
    prompts = [[10 + i, 20 + i] for i in range(8)]
    rows = [core.submit(request(prompt, mode, 60)) for prompt in prompts]
    for _ in range(ticks):
        core.tick()
    bad = rows[3]
    backend.poisoned = {bad.seat.index}
    core.tick()
    backend.poisoned = set()
    assert bad.finish_reason == "error"
    assert isinstance(bad.error, NumericsError)
    run(core, rows)
    others = [row for row in rows if row is not bad]
    assert all(row.finish_reason == "length" for row in others)
    if mode in ("ar", "lossless"):
        for row in others:
            assert row.tokens == alone(row.request.prompt, mode, 60)


def test_joining_copies_nobody_and_leaving_at_most_one_row():
    backend = Counting()
    core = make_core(backend, rows=64, prompt_tokens=4096)
    rows = [core.submit(request([5 + i % 50], new=500)) for i in range(64)]
    core.tick()
    assert (core.running, backend.copies) == (64, 0)
    core.cancel(rows[10])
    core.submit(request([7], new=500))
    core.tick()
    assert backend.copies == 0, "who joins takes the place of who left"
    core.cancel(rows[20])
    core.tick()
    assert backend.copies == 1, "the last row fills the hole"


def test_a_row_grows_by_its_own_need():
    backend = Counting()
    core = make_core(backend)
    long, short = core.submit(request([6], new=400)), core.submit(request([5], new=10))
    core.tick()
    assert short.seat.state == long.seat.state == 128
    run(core, [short])
    while len(long.tokens) < 200:
        core.tick()
    assert long.seat.state == 256
    assert backend.copies == 1


def test_widths_are_never_mixed():
    backend = Counting()
    core = make_core(backend, rows=8)
    rows = [
        core.submit(request([5 + i] * (3 + 4 * i), mode, 9))
        for i, mode in enumerate(["ar", "lossless", "ar"])
    ]
    run(core, rows)
    assert set(backend.widths) <= {1, 2, 3, 4, 5, 6, 7, 8, 16}
    assert [row.tokens for row in rows] == [
        alone(row.request.prompt, row.request.options.mode, 9) for row in rows
    ]


def test_a_long_prompt_does_not_stop_the_others():
    core = make_core(Counting(), prompt_tokens=CHUNK)
    writer = core.submit(request([5], new=100))
    core.tick()
    reader = core.submit(request([6] * 200, new=5))
    for number in range(1, 11):
        written = len(writer.tokens)
        core.tick()
        assert len(writer.tokens) > written
        assert reader.length == number * CHUNK


@pytest.mark.parametrize("mode", ["ar", "diffusion", "lossless", "mock-ar"])
def test_an_ending_hears_that_nothing_more_will_come(mode):
    """What it holds back may hold a stop text, which then is the reason."""

    class AtTheEnd:
        def push(self, tokens, final=False):
            return len(tokens) if final else None

        def would_end(self, tokens):
            return False

    core = make_core(Counting())
    row = core.submit(request([1, 2, 3], mode, new=6, ending=AtTheEnd()))
    while row.finish_reason is None:
        core.tick()
    assert (row.finish_reason, len(row.tokens)) == ("stop", 6)


@pytest.mark.parametrize("mode", ["ar", "diffusion", "lossless", "mock-ar"])
def test_a_rows_phase_turns_after_its_last_event(mode):
    """Whoever waits in another thread goes by the phase."""
    core, phases = make_core(Counting()), []
    row = core.submit(request([1, 2, 3], mode, new=6, listener=lambda event: phases.append(row.phase)))
    while row.phase is not Phase.ENDED:
        core.tick()
    assert phases
    assert Phase.ENDED not in phases


def test_who_is_left_waiting_goes_by_rows_tokens_and_what_runs():
    """The bound on a queue counts those who could not start, for whatever reason."""
    core = make_core(Counting(), rows=4, tokens=40)
    assert core.left_waiting([request([1] * 10, new=20)] * 3) == [request([1] * 10, new=20)] * 2
    core.submit(request([1] * 10, new=20))
    core.tick()
    assert core.left_waiting([request([1, 2], new=3)]) == []
    assert len(core.left_waiting([request([1, 2], new=3)] * 3)) == 1
    assert core.left_waiting([request([1, 2], new=0)] * 9) == [], "what computes nothing never waits"
    core.submit(request([1] * 10, new=20))
    assert len(core.left_waiting([request([1, 2], new=3)])) == 2, "nobody overtakes"


@pytest.mark.parametrize("mode", ["diffusion", "lossless"])
def test_who_has_nothing_running_ends_the_tick_of_others(mode):
    """Somebody new, who comes in the middle of a tick, waits for the call under way and no other; what that
    left undone is done later, and all write what they do alone.
    """
    core = make_core(Counting(), rows=5, prompt_tokens=1024)
    core.limits = replace(core.limits, share_calls=True)
    prompts = [tuple(range(4, 4 + length)) for length in (8, 20, 40, 3)]
    heavy = [core.submit(request(prompt, mode, new=96, owner="heavy")) for prompt in prompts]
    calls, light = [], []

    def come():
        counts = core.counts
        calls.append((counts.denoiser_calls, counts.context_calls))
        # After the first call of a tick, when that has made another due.
        running = all(row.phase is Phase.RUNNING for row in heavy)
        if not light and len(calls) == 1 and running and isinstance(heavy[0].due(CHUNK), Read):
            light.append(core.submit(request((5, 6), mode, owner="light")))

    core.between_calls = come
    for _ in range(20):
        if not light:
            calls.clear()
            core.tick()
    assert calls == [(core.counts.denoiser_calls, core.counts.context_calls)], "no further call was made"
    core.tick()
    assert light[0].served
    run(core, [*heavy, *light])
    assert light[0].tokens == alone((5, 6), mode, 6)
    for row, prompt in zip(heavy, prompts, strict=True):
        assert row.tokens == alone(prompt, mode, 96)


def test_an_owners_rows_go_on_alike_beside_others():
    """Where owners share calls, and one has many rows, none of these is left behind."""
    core = make_core(Counting(), rows=5, prompt_tokens=1024)
    core.limits = replace(core.limits, share_calls=True)
    heavy = [core.submit(request((5, 6, 7), "ar", new=60, owner="heavy")) for _ in range(4)]
    light = core.submit(request((5, 6), "ar", new=40, owner="light"))
    run(core, [light])
    lengths = [len(row.tokens) for row in heavy]
    assert max(lengths) - min(lengths) <= 1
    assert sum(lengths) <= 40 + 4, "all of them together as many as the one, and once before it came"


def test_whole_blocks_at_once_only_where_nobody_waits_for_them():
    """A device that fills whole blocks is asked to when all rows that run begin one, and steps while another
    row reads its prompt.
    """
    asked = []

    class Filling(Counting):
        graph_level = 2

        def fill_blocks(self, state, inputs, rows=None):
            asked.append((len(inputs.block_ids), [row.phase for row in core.rows]))

    core = make_core(Filling(), prompt_tokens=8)
    rows = [core.submit(request(range(4, 4 + length), "diffusion", new=64)) for length in (4, 80)]
    run(core, rows)
    assert asked
    assert all(count == len(phases) for count, phases in asked)
    assert all(phase is Phase.RUNNING for _, phases in asked for phase in phases)
    assert [row.tokens for row in rows] == [alone(row.request.prompt, "diffusion", 64) for row in rows]
