"""Prompt lookup gives AR's tokens, and saves calls where text repeats itself."""

from collections.abc import Callable

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from tests.support.chains import Chain
from tests.support.golden import golden
from ttc.runtime.decoding.modes.prompt_lookup import MAX_MATCH, look_up
from ttc.runtime.decoding.result import Result
from ttc.runtime.engine import Engine

CONFIG = golden("tiny_a").config
PROMPTS = [[1, 5, 6], [1, 7], [1, 8, 9, 10, 8, 9]]


@pytest.mark.parametrize(
    ("tokens", "most", "found"),
    [
        ([1, 2, 3, 4, 1, 2, 3], 2, [4, 1]),
        ([1, 2, 9, 5, 2, 8, 1, 2], 3, [9, 5, 2]),  # two tokens match, though one matched later
        ([7, 5, 7, 6, 7], 2, [6, 7]),  # the latest place
        ([7, 7, 7], 5, [7]),
        ([1, 2, 3], 4, []),
        ([1], 4, []),
        ([1, 2, 1], 0, []),
    ],
)
def test_what_is_looked_up(tokens: list[int], most: int, found: list[int]) -> None:
    assert look_up(tokens, most) == found


@given(st.lists(st.integers(0, 3), min_size=1, max_size=30), st.integers(0, 12))
def test_a_draft_stood_behind_the_same_tokens_before(tokens: list[int], most: int) -> None:
    draft = look_up(tokens, most)
    assert len(draft) <= most
    if not draft:
        return
    assert any(
        tokens[at - n : at] == tokens[-n:] and tokens[at : at + len(draft)] == draft
        for n in range(1, MAX_MATCH + 1)
        for at in range(n, len(tokens))
    )


@pytest.mark.parametrize("options", [{}, {"temperature": 0.7, "seed": 4}, {"max_new_tokens": 1}])
def test_golden_tokens(engines: Callable[..., Engine], backend: str, options: dict[str, float]) -> None:
    engine = engines("tiny_a", backend)
    given_options = {"max_new_tokens": 20, "stop_at_eos": False} | options
    want, got = (engine.generate(PROMPTS, mode, **given_options) for mode in ("ar", "prompt-lookup"))
    assert isinstance(want, list)
    assert isinstance(got, list)
    assert [result.token_ids for result in got] == [result.token_ids for result in want]
    assert {result.stats.nfe for result in got} == {0}


def test_a_circle_of_tokens_takes_few_calls() -> None:
    """The chain goes 10 → 11 → … → 14 → 10: once around, everything is found."""
    V = CONFIG.vocab_size
    logits = np.zeros((V, V), np.float32)
    for token in range(V):
        logits[token, 10 + (token - 9) % 5] = 9.0
    engine = Engine(Chain(CONFIG, logits, 0.0))
    want, got = (
        engine.generate([10], mode, max_new_tokens=48, stop_at_eos=False) for mode in ("ar", "prompt-lookup")
    )
    assert isinstance(want, Result)
    assert isinstance(got, Result)
    assert got.token_ids == want.token_ids
    assert want.stats.context_calls == 48
    assert got.stats.context_calls < 16


def test_events_tell_what_was_rejected() -> None:
    V = CONFIG.vocab_size
    logits = np.zeros((V, V), np.float32)
    logits[:, 20] = 9.0
    logits[20, 20], logits[20, 21] = 0.0, 9.0  # 20 → 21 → 20 → …
    engine = Engine(Chain(CONFIG, logits, 0.0))
    events = list(engine.stream([20, 30, 21], mode="prompt-lookup", max_new_tokens=3, stop_at_eos=False))
    assert [event.token_ids for event in events] == [(20,), (21,), (20,)]
    assert events[1].rejected == (30,)  # 30 stood behind 20 in the prompt; one more was of no use
