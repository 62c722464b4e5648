"""Rows and pages over a fake device: rows come and go, share pages, and outlive a move of their pool."""

import gc

import numpy as np
import pytest

from tests.support import tolerances
from tests.support.compare import assert_close, assert_equal
from tests.support.fake_device import POISON
from tests.support.many_lengths import of_all_lengths, serve_all
from ttc.runtime.gpu.lengths import row_bucket

ZERO, ONE = np.zeros((1, 1), np.int32), np.ones(1, np.int32)


def tokens(count, first=5):
    return (np.arange(count, dtype=np.int32)[None] * 7 + first) % 40 + 4


def read(backend, state, ids, rows=None, commit=None):
    count = np.full(len(ids), ids.shape[1] if commit is None else commit, np.int32)
    backend.context(state, ids, count, np.zeros((len(ids), 1), np.int32), rows=rows)


def assert_holds(backend, state, row, engines, *pieces):
    """A row holds what the torch backend does when it reads the same pieces."""
    plain = engines("tiny_a", "torch").runner
    other = plain.new_state(1, 512)
    for piece in pieces:
        read(plain, other, piece)
    assert state.lengths[row] == other.lengths[0]
    wanted = plain.read_state(other)
    for name, found in backend.read_state(state, np.array([row], np.int32)).items():
        stop = int(state.lengths[row]) if "cache" in name else None
        assert_close(found[:, :, :stop], wanted[name][:, :, :stop], tolerances.CACHES, name)


def test_rows_are_padded_to_few_numbers():
    found = [row_bucket(rows) for rows in range(1, 65)]
    assert sorted(set(found)) == [1, 2, 4, 8, 12, 16, 24, 32, 48, 64]
    assert all(bucket >= rows for rows, bucket in enumerate(found, 1))


@pytest.mark.slow
def test_after_warming_up_nothing_is_captured_allocated_or_copied(on_device, fake_device, engines):
    """Rows of all modes and lengths come, grow and end; every call is about some of them."""
    engine = on_device("tiny_a", 2)
    backend = engine.runner
    backend.warm_up(8, 1024, 16, 64)
    asked = of_all_lengths(engine.config.vocab_size, ("diffusion", "ar", "lossless"), (5, 119))[:6]
    changes = []
    for name in ("capture", "capture_loop", "allocate", "copy"):
        real = getattr(fake_device, name)
        setattr(fake_device, name, lambda *a, real=real, name=name: changes.append(name) or real(*a))
    rows, _ = serve_all(backend, asked)
    assert not changes
    others, _ = serve_all(engines("tiny_a", "onnxruntime").runner, asked)
    assert [row.tokens for row in rows] == [row.tokens for row in others]


def test_a_call_about_some_rows_leaves_the_others(on_device, engines):
    backend = on_device("tiny_a", 0).runner
    state = backend.new_state(3, 512)
    read(backend, state, np.concatenate([tokens(20, first) for first in (5, 6, 7)]))
    read(backend, state, np.concatenate([tokens(3, first) for first in (8, 9)]), np.array([0, 2], np.int32))
    assert state.lengths.tolist() == [23, 20, 23]
    assert_holds(backend, state, 0, engines, tokens(20, 5), tokens(3, 8))
    assert_holds(backend, state, 1, engines, tokens(20, 6))
    assert_holds(backend, state, 2, engines, tokens(20, 7), tokens(3, 9))


def test_a_copied_row_shares_its_pages_until_one_of_the_two_writes(on_device, engines, fake_device):
    backend = on_device("tiny_a", 0).runner
    state = backend.new_state(2, 512)
    read(backend, state, tokens(40), np.array([0], np.int32))
    before = backend.pool.books.free_pages
    backend.copy_row(state, 0, state, 1)
    assert backend.pool.books.free_pages == before, "a copy takes no page"
    read(backend, state, tokens(5, 9), np.array([1], np.int32))
    assert backend.pool.books.free_pages == before - 1, "the page that was written, and no other"
    read(backend, state, tokens(6, 17), np.array([0], np.int32))
    assert_holds(backend, state, 0, engines, tokens(40), tokens(6, 17))
    assert_holds(backend, state, 1, engines, tokens(40), tokens(5, 9))


def test_what_was_read_outlives_a_move_of_the_pool(on_device, engines):
    """Between a verification and the advance after it, more rows come than there is room for."""
    backend = on_device("tiny_a").runner
    state = backend.new_state(1, 512)
    block, three = tokens(5, 11), np.array([3], np.int32)
    read(backend, state, tokens(20))
    for _ in range(3):  # eager, captured, replayed
        call = backend.context(state, block, 0 * three, ZERO, save=True)
        memory = backend.pool.memory
        more = backend.new_state(2 * backend.pool.books.rows, 512)
        assert backend.pool.memory is not memory, "the pool has moved"
        backend.advance(state, call.saved, three)
        read(backend, state, tokens(1, 13))
    assert more.batch
    assert_holds(backend, state, 0, engines, tokens(20), *[block[:, :3], tokens(1, 13)] * 3)


def test_rows_come_back_when_their_state_is_dropped(on_device, fake_device):
    backend = on_device("tiny_a", 0).runner
    state = backend.new_state(2, 512)
    read(backend, state, np.concatenate([tokens(20), tokens(20)]))
    books, rows = backend.pool.books, backend.pool.books.free_rows
    pages = books.free_pages
    backend.resize(state, 1)
    assert (books.free_rows, books.free_pages) == (rows + 1, pages + 2)
    del state
    gc.collect()
    assert (books.free_rows, books.free_pages) == (rows + 2, pages + 4)
    again = backend.new_state(2, 512)
    assert all(not array.any() for array in backend.read_state(again).values()), "an empty row is empty"


def test_logits_stay_until_the_next_call_on_the_same_state(on_device, fake_device):
    """Whatever another state is asked meanwhile."""
    backend = on_device("tiny_a", 0).runner
    one, other = backend.new_state(1, 512), backend.new_state(1, 512)
    first = backend.context(one, tokens(4), ONE, ZERO)
    wanted = backend.fetch(first.logits)
    backend.context(other, tokens(4, 17), ONE, ZERO)
    assert_equal(backend.fetch(first.logits), wanted, "logits")
    allocated = fake_device.allocations
    for _ in range(2):
        first = backend.context(one, tokens(4), ONE, ZERO)
        backend.context(other, tokens(4, 17), ONE, ZERO)
    assert backend.fetch(first.logits).shape == wanted.shape
    assert fake_device.allocations == allocated, "and no more buffers for it than once"


def test_what_a_page_held_before_is_never_seen(on_device, engines, fake_device):
    """Not even where it is no number: of a row that ended by it, or of what fills a call up."""
    backend = on_device("tiny_a", 0).runner
    state = backend.new_state(1, 512)
    for tensor in backend.pool.memory.pages.values():
        fake_device.fill(tensor, POISON)
    read(backend, state, tokens(20))
    read(backend, state, tokens(3, 9))
    assert_holds(backend, state, 0, engines, tokens(20), tokens(3, 9))
    block = np.full((1, 8), backend.config.mask_token_id, np.int32)
    assert np.isfinite(backend.fetch(backend.denoise(state, block, np.ones(1, np.float32)))).all()
