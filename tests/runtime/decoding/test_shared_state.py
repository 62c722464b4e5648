"""Rows of all lengths in one state: fewer calls, the same tokens, and nobody loses what was read."""

import numpy as np
import pytest

from tests.support.chains import Chain
from tests.support.golden import golden
from tests.support.many_lengths import of_all_lengths, serve_all
from ttc.errors import DeviceMemoryError
from ttc.runtime.decoding.core import Core
from ttc.runtime.decoding.device import BackendDevice
from ttc.runtime.decoding.limits import SHARED_CAPACITY
from ttc.runtime.decoding.modes.table import ModeTable
from ttc.runtime.decoding.options import GenerationOptions, check_options
from ttc.runtime.decoding.plan import CoreLimits
from ttc.runtime.decoding.request import RowRequest
from ttc.runtime.decoding.seats import Seats
from ttc.runtime.decoding.speculative.policy import DraftPolicies

MODES = ("diffusion", "diffusion", "diffusion", "ar", "lossless")
CONFIG = golden("tiny_a").config


def chain():
    """A backend without weights."""
    V = CONFIG.vocab_size
    return Chain(CONFIG, np.random.default_rng(3).standard_normal((V, V)).astype(np.float32), 0.5)


def told(rows):
    return [(row.tokens, row.nfe_per_block, row.finish_reason) for row in rows]


def test_they_share_calls_and_write_the_same(engines, monkeypatch):
    """Of ONNX Runtime bit for bit, so token for token; rows begin, grow and end while others verify."""
    backend = engines("tiny_a", "onnxruntime").runner
    assert not backend.shares_state, "on a CPU"
    asked = of_all_lengths(CONFIG.vocab_size, MODES)
    apart, several = serve_all(backend, asked)
    monkeypatch.setattr(backend, "shares_state", True)
    together, one = serve_all(backend, asked)
    assert told(together) == told(apart)
    assert one.counts.denoiser_rows == several.counts.denoiser_rows
    assert one.counts.denoiser_calls < 0.8 * several.counts.denoiser_calls
    assert one.counts.context_calls < several.counts.context_calls
    assert one.seats.moves > several.seats.moves, "the state grew, and its rows with it"


@pytest.mark.parametrize(("shared", "calls"), [(False, 3), (True, 1)])
def test_a_call_a_tick_whatever_the_lengths(shared, calls):
    """Rows of three lengths that fill blocks."""
    backend = chain()
    backend.shares_state = shared
    device = BackendDevice(backend, 4096)
    table = ModeTable(backend, DraftPolicies(backend, 4096).policy, 4096)
    core = Core(device, table, CoreLimits(8, None, 4096), 512)
    options = check_options(GenerationOptions(max_new_tokens=40, stop_at_eos=False), CONFIG)
    rows = [core.submit(RowRequest((7,) * length, options, 1, 40)) for length in (20, 200, 500)]
    while not all(row.nfe_per_block for row in rows):
        core.tick()
    before = device.counts.denoiser_calls
    core.tick()
    assert device.counts.denoiser_calls - before == calls


def lengths(seats, some):
    return [int(seats.state(seat.state).lengths[seat.index]) for seat in some]


def test_the_shared_state_is_as_large_as_its_longest_row_needs():
    seats = Seats(chain(), 16_384, SHARED_CAPACITY)
    seats.expect([20, 100])
    short, other = seats.join(20), seats.join(100)
    state = seats.state(short.state)
    assert (state.capacity, seats.moves) == (128, 0)
    state.lengths[:] = [17, 90]
    long = seats.join(1000)
    assert seats.state(short.state).capacity == 1024
    assert long.state == short.state == other.state
    assert lengths(seats, [short, other, long]) == [17, 90, 0]
    assert not seats.holds(long, 1025)
    seats.grow(long, 1025)
    assert seats.state(long.state).capacity == 2048
    assert lengths(seats, [short, other]) == [17, 90]
    seats.leave(long)
    seats.compact()
    assert seats.state(short.state).capacity == 128, "a quarter does, so it shrinks"
    assert lengths(seats, [short, other]) == [17, 90]
    seats.join(200)
    seats.compact()
    assert seats.state(short.state).capacity == 256


def test_a_state_that_cannot_shrink_stays(monkeypatch):
    backend = chain()
    seats = Seats(backend, 16_384, SHARED_CAPACITY)
    short, long = seats.join(20), seats.join(1000)
    seats.leave(long)

    def full(batch, capacity):
        raise DeviceMemoryError("no room")

    monkeypatch.setattr(backend, "new_state", full)
    seats.compact()
    assert seats.state(short.state).capacity == 1024


def test_a_shrink_that_fails_midway_loses_no_row(monkeypatch):
    """The first row was copied already, the second could not be."""
    backend = chain()
    seats = Seats(backend, 16_384, SHARED_CAPACITY)
    rows, long = [seats.join(20), seats.join(30)], seats.join(1000)
    seats.state(rows[0].state).lengths[:2] = [17, 23]
    seats.leave(long)
    copy = backend.copy_row

    def copy_first(source, row, target, place):
        if row:
            raise DeviceMemoryError("no room")
        copy(source, row, target, place)

    monkeypatch.setattr(backend, "copy_row", copy_first)
    seats.compact()
    assert seats.state(rows[0].state).capacity == 1024
    assert lengths(seats, rows) == [17, 23]


def test_half_is_not_little_enough_to_shrink():
    seats = Seats(chain(), 16_384, SHARED_CAPACITY)
    short, long = seats.join(200), seats.join(400)
    seats.leave(long)
    seats.compact()
    assert seats.state(short.state).capacity == 512


def test_very_long_rows_have_states_of_their_own():
    seats = Seats(chain(), 16_384, SHARED_CAPACITY)
    row, long = seats.join(4000), seats.join(5000)
    assert row.state != long.state
    assert (seats.state(row.state).capacity, seats.state(long.state).capacity) == (4096, 8192)
    seats.state(row.state).lengths[row.index] = 4000
    seats.grow(row, 4097)
    assert row.state == long.state
    assert lengths(seats, [row]) == [4000]
    assert seats.in_use == 2
