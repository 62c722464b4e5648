"""The speculation loop under a drafter of the test's own: AR's text, whatever is proposed."""

import numpy as np
import pytest

from tests.support.chains import Chain
from tests.support.golden import golden
from ttc.runtime.decoding.generation import Generation
from ttc.runtime.decoding.loop import autoregress
from ttc.runtime.decoding.options import GenerationOptions, check_options
from ttc.runtime.decoding.rows import Row
from ttc.runtime.decoding.speculative.speculate import speculate

CONFIG = golden("tiny_a").config
NEW = 30


def generation(rows):
    logits = np.random.default_rng(5).standard_normal((CONFIG.vocab_size,) * 2).astype(np.float32)
    options = check_options(GenerationOptions(max_new_tokens=NEW, stop_at_eos=False), CONFIG)
    return Generation(Chain(CONFIG, logits, 1.0), rows, options, 64, 64)


class Foresees:
    """Proposes `length` tokens of the text, all but the last of them right; keeps what it is told."""

    def __init__(self, texts, length):
        self.texts, self.length, self.told = texts, length, []

    def propose(self, run, rows, state):
        yield from ()
        drafts = []
        for row in rows:
            start = len(row.tokens)
            draft = self.texts[row.index][start : start + min(self.length, NEW - start - 1)]
            drafts.append([*draft[:-1], (draft[-1] + 1) % CONFIG.vocab_size] if draft else [])
        return drafts

    def observe(self, row, drafted, accepted):
        self.told.append((row.index, drafted, accepted))


@pytest.mark.parametrize("length", [0, 1, 4])
def test_any_drafter(length):
    prompts = [[1, 2], [3]]
    written = [Row(r, prompt) for r, prompt in enumerate(prompts)]
    list(autoregress(generation(written)))
    rows = [Row(r, prompt) for r, prompt in enumerate(prompts)]
    drafter = Foresees([row.tokens for row in written], length)
    events = list(speculate(generation(rows), drafter))
    assert [row.tokens for row in rows] == [row.tokens for row in written]
    assert [row.finish_reason for row in rows] == ["length"] * 2
    assert all(accepted == max(drafted - 1, 0) for _, drafted, accepted in drafter.told)
    assert len(events) == len(drafter.told) + len(rows), "a round each, and the prompts' next tokens"
    for row in rows:
        own = [event for event in events if event.row == row.index]
        assert [event.block_index for event in own] == list(range(len(own)))
        assert sum(len(event.token_ids) for event in own) == NEW
