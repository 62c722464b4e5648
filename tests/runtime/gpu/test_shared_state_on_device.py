"""Rows of all lengths over a fake device: they share a state, and with it calls."""

import pytest

from tests.support.many_lengths import of_all_lengths, serve_all


@pytest.mark.parametrize("level", [0, 2])
def test_tokens_are_those_of_the_cpu(on_device, engines, level):
    engine = on_device("tiny_a", level)
    assert engine.runner.shares_state
    # The last ones grow beyond the smallest capacity while the others write.
    asked = of_all_lengths(engine.config.vocab_size, ("diffusion", "lossless", "ar"), (5, 119, 505))
    rows, device = serve_all(engine.runner, asked)
    others, several = serve_all(engines("tiny_a", "onnxruntime").runner, asked)
    assert [row.tokens for row in rows] == [row.tokens for row in others]
    assert device.counts.denoiser_calls < several.counts.denoiser_calls
