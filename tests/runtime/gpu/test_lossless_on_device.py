"""Lossless mode over a fake device, where blocks and their graphs have one width."""

import pytest

from tests.support.golden import golden

RAGGED = ("p12", "p01", "p05", "p23")


@pytest.mark.parametrize("level", [0, 2])
@pytest.mark.parametrize("choice", [{}, {"temperature": 0.8, "seed": 2}], ids=["greedy", "sampled"])
@pytest.mark.parametrize("drafting", ["auto", 2])
def test_the_text_is_that_of_ar(on_device, level, choice, drafting):
    engine = on_device("tiny_a", level)
    prompts = [golden("tiny_a").vectors[f"prompt/{key}"][0].tolist() for key in RAGGED]
    options = {"max_new_tokens": 14, "stop_at_eos": False} | choice
    want = engine.generate(prompts, "ar", **options)
    got = engine.generate(prompts, "lossless", draft_steps=drafting, **options)
    assert [result.token_ids for result in got] == [result.token_ids for result in want]
    assert {result.stats.graph_level for result in got} == {level}
