"""What holds for every run of the block loop, whatever the denoiser says."""

import numpy as np
from hypothesis import given
from hypothesis import strategies as st

from tests.support.golden import golden
from tests.support.recording import Scripted
from ttc.runtime.engine import Engine

CONFIG = golden("tiny_a").config


class RandomDenoiser(Scripted):
    """Random logits whose sharpness differs from position to position; some positions tie exactly."""

    def __init__(self, seed, tied):
        super().__init__(CONFIG, [])
        self._rng, self._tied = np.random.default_rng(seed), tied

    def denoise(self, state, block_ids, t, rows=None):
        B, S = block_ids.shape
        sharp = self._rng.choice([0.0, 1.0, 5.0, 30.0], (B, S, 1))
        logits = self._rng.standard_normal((B, S, CONFIG.vocab_size)) * sharp
        if self._tied:
            logits[:, 1::2] = logits[:, :1]
        return logits.astype(np.float32)


@given(
    seed=st.integers(0, 2**32 - 1),
    tied=st.booleans(),
    rows=st.integers(1, 3),
    block_size=st.integers(1, 20),
    steps=st.integers(1, 24),
    threshold=st.sampled_from([0.0, 0.5, 0.9, 1.0]),
    temperature=st.sampled_from([0.0, 0.8]),
    count=st.integers(1, 45),
)
def test_block_loop(seed, tied, rows, block_size, steps, threshold, temperature, count):
    engine = Engine(RandomDenoiser(seed, tied))
    options = {
        "max_new_tokens": count,
        "block_size": block_size,
        "steps": steps,
        "threshold": threshold,
        "temperature": temperature,
        "seed": 5 if temperature else None,
        "stop_at_eos": False,
    }
    events = list(engine.stream([[1, 2]] * rows, **options))
    for row in range(rows):
        own = [event for event in events if event.row == row]
        before, in_block = None, 0
        for event in own:
            if event.committed:
                assert before is not None
                assert not any(before.masked), "a block ends with nothing masked"
                assert event.token_ids == before.token_ids[: len(event.token_ids)]
                assert in_block <= min(steps, block_size), "never more steps than asked, or than positions"
                before, in_block = None, 0
                continue
            in_block += 1
            if before is not None:
                assert sum(event.masked) < sum(before.masked), "every step commits at least one position"
                settled = [i for i, masked in enumerate(before.masked) if not masked]
                assert all(event.token_ids[i] == before.token_ids[i] for i in settled), (
                    "committed tokens stay"
                )
                assert all(event.confidence[i] is None for i in settled)
            before = event
        assert sum(len(event.token_ids) for event in own if event.committed) == count
        assert all(CONFIG.mask_token_id not in event.token_ids for event in own if event.committed)
    again = Engine(RandomDenoiser(seed, tied))
    assert list(again.stream([[1, 2]] * rows, **options)) == events, "same seed, same events"
