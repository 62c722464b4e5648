"""Verification of drafts, and the state it leaves: that of an AR run over the same tokens."""

import numpy as np
import pytest

from tests.support import tolerances
from tests.support.compare import assert_close
from tests.support.drafts import NEW, make_rows
from tests.support.golden import CHECKPOINTS, golden
from tests.support.recording import Wrapped
from ttc.errors import NumericsError
from ttc.model.graphs import is_kv_cache

PROMPTS = ("p12", "p01", "p33", "p05", "p02", "p23", "p03", "p12_1")


def ar_state(backend, prompt, tokens):
    """State of one row that has read the prompt at once and the tokens one by one."""
    state = backend.new_state(1, 128)
    first = np.zeros((1, 1), np.int32)
    backend.context(state, np.array([prompt], np.int32), np.array([len(prompt)], np.int32), first)
    for token in tokens:
        backend.context(state, np.array([[token]], np.int32), np.ones(1, np.int32), first)
    return state


def check_row(backend, core, row, prompt, what):
    """The row's state against AR's over the same tokens; keys and values as far as they count."""
    want = ar_state(backend, prompt, row.tokens[:-1])
    n = int(want.lengths[0])
    index = np.array([row.seat.index], np.int32)
    state = core.seats.state(row.seat.state)
    assert int(state.lengths[row.seat.index]) == row.length == n, what
    got, expected = backend.read_state(state, index), backend.read_state(want)
    for name in expected:
        counts = (slice(None), slice(None), slice(n)) if is_kv_cache(name) else ...
        assert_close(got[name][counts], expected[name][counts], tolerances.CACHES, f"{what}: {name}")


@pytest.mark.parametrize("name", CHECKPOINTS)
@pytest.mark.parametrize("temperature", [0.0, 0.9])
def test_commits_what_ar_writes_and_its_state(name, temperature, engines, backend):
    """A ragged batch over several rounds: drafts of all lengths, right up to any token."""
    engine = engines(name, backend)
    inner = engine.runner
    prompts = [golden(name).vectors[f"prompt/{key}"][0].tolist() for key in PROMPTS]
    given = {"temperature": temperature, "seed": 4 if temperature else None}
    results = engine.generate(prompts, "ar", max_new_tokens=NEW, stop_at_eos=False, **given)
    texts = [result.token_ids for result in results]
    # Per row: length of the draft of each round, and how many of its tokens are right.
    rounds = list(
        zip(
            [(0, 0), (1, 0), (1, 1), (5, 3), (7, 7), (7, 0), (2, 2), (3, 1)],
            [(7, 7), (0, 0), (6, 2), (1, 1), (2, 0), (7, 6), (0, 0), (4, 4)],
            [(1, 0), (7, 5), (0, 0), (7, 7), (0, 0), (3, 3), (6, 1), (2, 1)],
            strict=True,
        )
    )
    core, rows, drafters = make_rows(inner, prompts, texts, rounds, **given)
    for number in range(1 + len(rounds[0])):
        core.tick()
        for r, (row, prompt) in enumerate(zip(rows, prompts, strict=True)):
            assert row.tokens == list(texts[r][: len(row.tokens)]), f"round {number}"
            assert drafters[r].accepted == [right for _, right in rounds[r][:number]], f"round {number}"
            check_row(inner, core, row, prompt, f"round {number}, row {r}")
    assert all(row.context_calls == 1 + len(rounds[0]) for row in rows)


@pytest.mark.parametrize("value", [np.nan, np.inf, -np.inf])
def test_nan_and_infinity_leave_the_others_alone(engines, backend, value):
    """In the context tower's logits where a draft is verified: that row ends, the other goes on as AR."""
    engine = engines("tiny_a", backend)
    text_of = [
        engine.generate(golden("tiny_a").vectors[f"prompt/{p}"][0].tolist(), "ar", max_new_tokens=NEW,
                        stop_at_eos=False).token_ids
        for p in ("p12", "p05")
    ]  # fmt: skip
    prompts = [golden("tiny_a").vectors[f"prompt/{p}"][0].tolist() for p in ("p12", "p05")]

    class NanOnce(Wrapped):
        armed = False

        def fetch(self, logits):
            values = super().fetch(logits).copy()
            if self.armed:
                self.armed = False
                values[0, 1, 7] = value
            return values

    watched = NanOnce(engine.runner)
    core, rows, _ = make_rows(watched, prompts, text_of, [[(4, 4)] * 9] * 2)
    core.tick()
    watched.armed = True
    core.tick()
    assert rows[0].finish_reason == "error"
    assert isinstance(rows[0].error, NumericsError)
    assert "NaN or infinite logits for new token 2" in str(rows[0].error)
    while rows[1].finish_reason is None:
        core.tick()
    assert rows[1].tokens == list(text_of[1])
