"""The prefix cache over rows of a pool: the tests of any backend, and what snapshots of pages are made of."""

import numpy as np
import pytest

from tests.runtime.test_prefix_cache import (  # noqa: F401  # run here, over this file's `runner`
    CHUNK,
    ONE,
    OTHER,
    cached,
    test_a_hit_gives_what_a_miss_gives,
    test_a_row_waits_for_the_common_beginning_alone,
    test_choices_of_one_prompt_read_it_once,
    test_nobody_waits_for_what_does_not_fit_into_the_budget,
    test_states_are_equal_bit_for_bit,
    test_the_budget_is_kept_and_the_latest_stay,
)


@pytest.fixture
def runner(on_device):
    return on_device("tiny_a", 1).runner


def test_a_hit_copies_one_row_and_takes_no_page(runner, fake_device):
    """And nothing is allocated for a snapshot: its memory is there when the cache is."""
    engine, options = cached(runner, 10**6), {"max_new_tokens": 1, "stop_at_eos": False}
    assert cached(runner, 10**6).generate(ONE, **options).stats.cached_prompt_tokens == 0
    engine.generate(ONE, **options)
    engine.generate(OTHER, **options)
    allocations, copied, taken = fake_device.allocations, [], []
    copy = fake_device.copy
    fake_device.copy = lambda target, source: copied.append(source.nbytes) or copy(target, source)
    books = runner.pool.books
    adopt = books.adopt
    books.adopt = lambda row, pages: taken.append((books.free_pages, adopt(row, pages), books.free_pages))
    result = engine.generate(OTHER, **options)
    assert result.stats.cached_prompt_tokens == 64
    assert sum(copied) == runner.pool.row_bytes
    ((before, _, after),) = taken
    assert before == after
    assert fake_device.allocations == allocations


@pytest.mark.parametrize("chunk", [16, 24])
def test_pieces_need_not_end_with_a_page(runner, chunk):
    """The page in which one ends is not written by whoever goes on behind it."""
    prompts = [np.arange(72) % 40 + 4, np.concatenate([np.arange(60) % 40 + 4, [9] * 12])]
    state = runner.new_state(3, 512)
    pieces = []
    for row, prompt in enumerate(prompts):
        for start in range(0, 72, chunk):
            if row == 0 or start >= 48:
                read(runner, state, row, prompt[start : start + chunk])
            else:
                runner.load_row(state, row, pieces[: start // chunk + 1])
            if row == 0:
                pieces.append(runner.save_row(state, row, start))
    runner.load_row(state, 2, pieces)
    plain = runner.new_state(2, 512)
    for row, prompt in enumerate(prompts):
        for start in range(0, 72, chunk):
            read(runner, plain, row, prompt[start : start + chunk])
    want, got = runner.read_state(plain), runner.read_state(state)
    for name, array in want.items():
        stop = 72 if "cache" in name else None
        np.testing.assert_array_equal(got[name][[0, 1, 2], :, :stop], array[[0, 1, 0], :, :stop], name)


def test_what_is_dropped_comes_back(runner):
    state = runner.new_state(1, 512)
    read(runner, state, 0, np.arange(40) % 40 + 4)
    books = runner.pool.books
    runner.reserve_pieces(10**6, CHUNK)
    free, reserved = books.free_pages, runner.pool.reserved_pages
    piece = runner.save_row(state, 0, 0)
    del state
    assert books.free_pages == free, "the snapshot has them"
    assert runner.pool.reserved_pages == reserved - 3
    del piece
    assert books.free_pages == free + 3
    assert runner.pool.reserved_pages == reserved


def read(runner, state, row, prompt):
    count = np.array([len(prompt)], np.int32)
    rows = np.array([row], np.int32)
    runner.context(state, prompt[None].astype(np.int32), count, count[None] - 1, rows=rows)
