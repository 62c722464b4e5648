"""What a call leaves out: the head where no token is chosen, and what only `advance` would need."""

import weakref

import numpy as np
import pytest

from tests.support import tolerances
from tests.support.compare import assert_close
from ttc.model import fused_towers
from ttc.plugins.mamba_mixer import MAMBA_MIXER
from ttc.plugins.naive import run_naive
from ttc.runtime.engine import Engine

PROMPTS = [list(range(3, 24)), [5, 6]]
FREE = {"stop_at_eos": False, "max_new_tokens": 9}


@pytest.fixture
def heads(monkeypatch):
    """Positions of every product with the head: (rows, positions)."""
    seen, real = [], fused_towers._head

    def head(h, weight, into):
        seen.append(tuple(h.shape[:2]))
        return real(h, weight, into)

    monkeypatch.setattr(fused_towers, "_head", head)
    return seen


@pytest.mark.parametrize("mode", ["diffusion", "ar"])
def test_only_for_tokens_that_are_wanted(on_device, engines, heads, mode):
    """At level 0, where every call runs torch: prompts in pieces of 8 tokens, blocks of 8."""
    options = FREE | ({"block_size": 8, "steps": 4} if mode == "diffusion" else {})
    want = engines("tiny_a", "torch").generate(PROMPTS, mode, **options)
    backend = on_device("tiny_a", 0).runner
    assert backend.skips_logits
    reads, real = [], backend.context
    backend.context = lambda *given, **named: reads.append(given[3].shape[1]) or real(*given, **named)
    heads.clear()
    got = Engine(backend, prefill_chunk=8).generate(PROMPTS, mode, **options)
    assert [row.token_ids for row in got] == [row.token_ids for row in want]
    assert reads, "pieces in which no prompt ends"
    assert set(reads) == {0}
    assert {positions for _, positions in heads} == {8 if mode == "diffusion" else 1}, "blocks or next tokens"


@pytest.mark.parametrize("save", [False, True])
def test_projections_stay_only_for_an_advance(on_device, save):
    """In the released model those of all layers take 0.5 MB a token."""
    held, most = [], []

    def spy(op, *inputs, **attributes):
        if op == MAMBA_MIXER:
            most.append(sum(each() is not None for each in held))
            held.append(weakref.ref(inputs[0]))
        return run_naive(op, *inputs, **attributes)

    backend = on_device("tiny_a", 0, run_op=spy).runner
    tokens, none = np.arange(3, 11, dtype=np.int32)[None], np.zeros(1, np.int32)
    backend.context(backend.new_state(1, 32), tokens, none, np.empty((1, 0), np.int32), save=save)
    assert len(held) > 2
    assert max(most) == len(held) - 1 if save else max(most) <= 1, "at most that of the layer before"


def test_the_state_is_the_same_without(on_device):
    """Both ways of one call, and what `advance` moves."""
    backend = on_device("tiny_a").runner
    tokens = np.arange(3, 11, dtype=np.int32)[None]
    whole, none = np.array([8], np.int32), np.zeros(1, np.int32)
    states = []
    for positions in (np.array([[7]], np.int32), np.empty((1, 0), np.int32)):
        state = backend.new_state(1, 32)
        backend.context(state, tokens, whole, positions)
        call = backend.context(state, tokens, none, positions, save=True)
        assert (call.logits is None) == (positions.size == 0)
        backend.advance(state, call.saved, np.array([5], np.int32))
        states.append(backend.read_state(state))
    for name, array in states[0].items():
        assert_close(states[1][name], array, tolerances.CACHES, name)
