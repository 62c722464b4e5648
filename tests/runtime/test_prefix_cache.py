"""The prefix cache: a hit equals a miss bit for bit; only what is whole, sound and in budget is kept."""

import dataclasses

import numpy as np
import pytest

from tests.support.recording import Wrapped
from ttc.errors import InputError
from ttc.runtime.decoding.rows import Phase
from ttc.runtime.engine import Engine

CHUNK, LIMIT = 16, 10**8
SHARED = [5 + i % 90 for i in range(64)]
ONE, OTHER = [*SHARED, 7, 8], [*SHARED, 9]


@pytest.fixture(params=["onnxruntime", "torch"])
def runner(request, engines):
    return engines("tiny_a", request.param).runner


def cached(runner, limit=LIMIT):
    return Engine(runner, prefill_chunk=CHUNK, prefix_cache_bytes=limit)


def state_after(engine, prompt):
    """The row's state when its prompt is read, keys and values only as far as they count."""
    asked = engine.read(prompt, None, {"max_new_tokens": 40, "stop_at_eos": False}, None)
    row = engine.core.submit(asked.rows[0].request)
    while row.phase is not Phase.RUNNING:
        engine.core.tick()
    state = engine.core.seats.state(row.seat.state)
    length = int(state.lengths[row.seat.index])
    tensors = engine.runner.read_state(state, np.array([row.seat.index], np.int32))
    engine.core.cancel(row)
    return row.cached_tokens, {
        name: tensor[:, :, :length] if "_cache" in name else tensor for name, tensor in tensors.items()
    }


@pytest.mark.parametrize("options", [{}, {"mode": "ar"}, {"mode": "lossless", "draft_steps": 2}])
def test_a_hit_gives_what_a_miss_gives(runner, options):
    given = {"max_new_tokens": 12, "stop_at_eos": False, "temperature": 0.7, "seed": 3, "logprobs": True}
    given |= options
    if options.get("mode") == "lossless":
        del given["logprobs"]
    plain, engine = Engine(runner, prefill_chunk=CHUNK), cached(runner)
    results = [engine.generate(prompt, **given) for prompt in (ONE, OTHER)]
    for prompt, result, tokens in zip((ONE, OTHER), results, (0, 64), strict=True):
        want = plain.generate(prompt, **given)
        assert (result.token_ids, result.logprobs) == (want.token_ids, want.logprobs)
        assert result.stats.cached_prompt_tokens == tokens
    assert (engine.prefix_cache.queries, engine.prefix_cache.hit_tokens) == (2, 64)
    assert plain.prefix_cache is None


def test_states_are_equal_bit_for_bit(runner):
    _, want = state_after(Engine(runner, prefill_chunk=CHUNK), OTHER)
    engine = cached(runner)
    engine.generate(ONE, max_new_tokens=1)
    tokens, got = state_after(engine, OTHER)
    assert tokens == 64
    for name, tensor in want.items():
        np.testing.assert_array_equal(got[name], tensor, name)


def test_choices_of_one_prompt_read_it_once(runner):
    given = {"max_new_tokens": 6, "stop_at_eos": False, "temperature": 1.0, "seed": 3}
    engine = cached(runner)
    together = engine.generate(ONE, n=3, **given)
    assert [result.stats.cached_prompt_tokens for result in together] == [0, 64, 64]
    plain = Engine(runner, prefill_chunk=CHUNK)
    alone = [plain.generate(ONE, choice=choice, **given) for choice in range(3)]
    assert [result.token_ids for result in together] == [result.token_ids for result in alone]


def test_the_budget_is_kept_and_the_latest_stay(runner):
    whole = cached(runner)
    whole.generate(ONE, max_new_tokens=1)
    limit = whole.prefix_cache.bytes
    assert whole.prefix_cache.pieces == 4
    engine = cached(runner, limit)
    for prompt in (ONE, ONE[::-1]):
        engine.generate(prompt, max_new_tokens=1)
        assert engine.prefix_cache.bytes <= limit
    again = engine.generate(ONE[::-1], max_new_tokens=1)
    assert again.stats.cached_prompt_tokens == 64
    assert engine.generate(ONE, max_new_tokens=1).stats.cached_prompt_tokens == 0


def ticks_of(engine, prompts):
    """After how many ticks each row had read its prompt; how many tokens it found."""
    given = {"max_new_tokens": 40, "stop_at_eos": False}
    rows = [engine.core.submit(each.request) for each in engine.read(prompts, None, given, None).rows]
    ticks = dict.fromkeys(range(len(rows)), 0)
    while any(row.phase in (Phase.WAITING, Phase.PROMPT) for row in rows):
        engine.core.tick()
        for i, row in enumerate(rows):
            ticks[i] += row.phase is Phase.PROMPT
    for row in rows:
        engine.core.cancel(row)
    return ticks, [row.cached_tokens for row in rows]


def test_a_row_waits_for_the_common_beginning_alone(runner):
    """It takes it from the row that is still reading."""
    long, short = [*SHARED, *range(5, 85), *range(5, 85)], [*SHARED, 9]
    engine = cached(runner)
    ticks, found = ticks_of(engine, [long, short])
    assert found == [0, 64]
    assert ticks[1] <= len(SHARED) // CHUNK + 1 < ticks[0]
    assert engine.prefix_cache.bytes > 0


def test_nobody_waits_for_what_does_not_fit_into_the_budget(runner):
    engine = cached(runner, limit=1)
    (_, second), found = ticks_of(engine, [ONE, OTHER])[0].values(), ticks_of(engine, [ONE, OTHER])[1]
    assert found == [0, 0]
    assert second <= len(SHARED) // CHUNK + 2
    assert (engine.prefix_cache.bytes, engine.prefix_cache.pieces) == (0, 0)


def test_nothing_of_a_cancelled_or_broken_row_is_kept(engines):
    class Broken(Wrapped):
        can_save_rows = True

        def save_row(self, state, row, start):
            return dataclasses.replace(self.inner.save_row(state, row, start), finite=False)

    runner = engines("tiny_a", "onnxruntime").runner
    broken = cached(Broken(runner))
    broken.generate(ONE, max_new_tokens=1)
    assert broken.prefix_cache.pieces == 0
    engine = cached(runner)
    row = engine.core.submit(engine.read(ONE, None, {"max_new_tokens": 40}, None).rows[0].request)
    engine.core.tick()
    assert row.phase is Phase.PROMPT
    assert engine.prefix_cache.bytes > 0
    engine.core.cancel(row)
    assert engine.prefix_cache.bytes == 0
    assert engine.generate(ONE, max_new_tokens=1).stats.cached_prompt_tokens == 0


@pytest.mark.parametrize("value", [-1, 1.5, "much", True])
def test_a_size_that_is_none(engines, value):
    with pytest.raises(InputError, match="prefix_cache_bytes"):
        cached(engines("tiny_a", "onnxruntime").runner, value)
