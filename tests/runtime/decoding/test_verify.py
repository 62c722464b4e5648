"""Verification of drafts, and the state it leaves: that of an AR run over the same tokens."""

import numpy as np
import pytest

import ttc
from tests.support import tolerances
from tests.support.compare import assert_close
from tests.support.golden import CHECKPOINTS, golden
from tests.support.recording import Wrapped
from ttc.model.graphs import is_kv_cache
from ttc.runtime.decoding.generation import Generation
from ttc.runtime.decoding.loop import prefill
from ttc.runtime.decoding.options import GenerationOptions, check_options
from ttc.runtime.decoding.rows import Row
from ttc.runtime.decoding.speculative.verify import verify

PROMPTS = ("p12", "p01", "p33", "p05", "p02", "p23", "p03", "p12_1")
NEW = 24


def generation(backend, rows, **given):
    options = GenerationOptions(mode="ar", max_new_tokens=NEW, stop_at_eos=False, **given)
    return Generation(backend, rows, check_options(options, backend.config), 64, 64)


def draft(ar_text, place, right, length, vocabulary):
    """`length` tokens that AR would write from `place` on, all but the one behind the first `right`."""
    tokens = list(ar_text[place : place + length])
    if right < length:
        tokens[right] = (tokens[right] + 1) % vocabulary
    return tokens


def after_prompt(backend, prompt):
    state, _ = prefill(generation(backend, [Row(0, prompt)]), [prompt])
    return state


def read_as_ar(backend, state, tokens):
    """Move the state of one row past the tokens, one per call."""
    one, first = np.ones(1, np.int32), np.zeros((1, 1), np.int32)
    for token in tokens:
        backend.context(state, np.array([[token]], np.int32), one, first)


def check_row(backend, state, r, want, what):
    """Row r of a batch's state against a state of one row; keys and values as far as they count."""
    n = int(want.lengths[0])
    assert int(state.lengths[r]) == n, what
    for name, tensor in want.tensors.items():
        got, expected = backend.fetch(state.tensors[name])[r], backend.fetch(tensor)[0]
        if is_kv_cache(name):
            got, expected = got[:, :n], expected[:, :n]
        assert_close(got, expected, tolerances.CACHES, f"{what}: {name}")


@pytest.mark.parametrize("name", CHECKPOINTS)
@pytest.mark.parametrize("temperature", [0.0, 0.9])
def test_commits_what_ar_writes_and_its_state(name, temperature, engines, backend):
    """A ragged batch over several rounds: drafts of all lengths, right up to any place."""
    engine = engines(name, backend)
    inner, config = engine.runner, engine.config
    prompts = [golden(name).vectors[f"prompt/{key}"][0].tolist() for key in PROMPTS]
    given = {"temperature": temperature, "seed": 4 if temperature else None}
    texts = [
        result.token_ids
        for result in engine.generate(prompts, "ar", max_new_tokens=NEW, stop_at_eos=False, **given)
    ]
    rows = [
        Row(r, prompt, tokens=[text[0]]) for r, (prompt, text) in enumerate(zip(prompts, texts, strict=True))
    ]
    run = generation(inner, rows, **given)
    state, _ = prefill(run, prompts)
    # Per round and row: length of the draft, and how many of its tokens are right.
    rounds = [
        [(0, 0), (1, 0), (1, 1), (5, 3), (7, 7), (7, 0), (2, 2), (3, 1)],
        [(7, 7), (0, 0), (6, 2), (1, 1), (2, 0), (7, 6), (0, 0), (4, 4)],
        [(1, 0), (7, 5), (0, 0), (7, 7), (0, 0), (3, 3), (6, 1), (2, 1)],
    ]
    in_ar = [after_prompt(inner, prompt) for prompt in prompts]
    for number, plan in enumerate(rounds):
        drafts = [
            draft(text, len(row.tokens), right, length, config.vocab_size)
            for row, text, (length, right) in zip(rows, texts, plan, strict=True)
        ]
        verdict = verify(run, rows, drafts, state)
        assert verdict.accepted.tolist() == [right for _, right in plan], f"round {number}"
        for row, tokens, (_, right), own in zip(rows, drafts, plan, verdict.bonus_ids.tolist(), strict=True):
            read_as_ar(inner, in_ar[row.index], [row.tokens[-1], *tokens[:right]])
            check_row(inner, state, row.index, in_ar[row.index], f"round {number}, row {row.index}")
            row.tokens += [*tokens[:right], own]
            assert row.tokens == list(texts[row.index][: len(row.tokens)]), f"round {number}"
    assert all(row.context_calls == 1 + len(rounds) for row in rows)


def test_nan_leaves_the_state_alone(engines, backend):
    """NaN in the context tower's logits: refused, and the same state goes on as if nothing had been."""
    engine = engines("tiny_a", backend)

    class NanOnce(Wrapped):
        poisoned = False

        def fetch(self, logits):
            values = super().fetch(logits).copy()
            if not self.poisoned:
                self.poisoned = True
                values[:, 1] = np.nan
            return values

    inner, prompt = engine.runner, golden("tiny_a").vectors["prompt/p12"][0].tolist()
    text = engine.generate(prompt, "ar", max_new_tokens=NEW, stop_at_eos=False).token_ids
    row = Row(0, prompt, tokens=[text[0]])
    state, _ = prefill(generation(inner, [row]), [prompt])
    before, lengths = dict(state.tensors), state.lengths.copy()
    run = generation(NanOnce(inner), [row])
    with pytest.raises(ttc.NumericsError, match="NaN logits for new token 2"):
        verify(run, [row], [text[1:5]], state)
    assert all(state.tensors[name] is tensor for name, tensor in before.items())
    assert (state.lengths == lengths).all()
    verdict = verify(run, [row], [text[1:5]], state)
    assert (verdict.accepted.tolist(), verdict.bonus_ids.tolist()) == ([4], [text[5]])
