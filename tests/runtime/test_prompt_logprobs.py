"""Log-probabilities of the prompt: those of the context tower at every position, in any company."""

import asyncio

import numpy as np
import pytest

import ttc
from tests.support.golden import golden
from tests.support.recording import Wrapped
from tests.support.tolerances import CONTEXT_LOGITS
from ttc.runtime.async_engine import AsyncEngine
from ttc.runtime.decoding.plan import CoreLimits
from ttc.runtime.decoding.scores import token_scores
from ttc.runtime.engine import Engine

PROMPT = (golden("tiny_a").vectors["prompt/p12"][0].tolist() * 14)[:150]


@pytest.mark.parametrize("mode", ["diffusion", "ar", "mock-ar", "lossless"])
@pytest.mark.parametrize("new", [0, 1, 20])
def test_scores_of_a_prompt(ort, mode, new):
    """Over chunk borders; the text after the prompt is what it is without."""
    result = ort.generate(PROMPT, mode, max_new_tokens=new, prompt_logprobs=True)
    assert result.token_ids == ort.generate(PROMPT, mode, max_new_tokens=new).token_ids
    logits = ort.context_logits(PROMPT)
    want = token_scores(logits, PROMPT[1:])
    assert [score.token for score in result.prompt_scores] == PROMPT[1:]
    for have, due in zip(result.prompt_scores, want, strict=True):
        assert have.logprob == pytest.approx(due.logprob, abs=CONTEXT_LOGITS)
        assert have.top_logprob == pytest.approx(due.top_logprob, abs=CONTEXT_LOGITS)
        assert have.top_logprob >= have.logprob


def test_a_score_is_a_log_softmax():
    logits = np.log(np.array([[1, 2, 5], [4, 4, 2]], np.float32))
    first, second = token_scores(logits, [1, 2])
    assert np.exp([first.logprob, first.top_logprob]) == pytest.approx([2 / 8, 5 / 8])
    assert (first.top, second.top) == (2, 0)
    assert np.exp(second.logprob) == pytest.approx(0.2)


def test_one_token_has_nothing_before_it(ort):
    assert ort.generate([5], max_new_tokens=0, prompt_logprobs=True).prompt_scores == ()
    assert ort.generate([5], max_new_tokens=0).prompt_scores is None


def test_beside_others_and_with_a_prefix_cache(ort):
    """A prompt whose beginning is known is read again, since its logits are wanted."""
    alone = ort.generate(PROMPT, max_new_tokens=0, prompt_logprobs=True).prompt_scores

    async def program():
        engine = Engine(Wrapped(ort.runner), prefix_cache_bytes=1 << 24, limits=CoreLimits(8, None, 1024))
        async with AsyncEngine(engine) as shared:
            await shared.generate(PROMPT, max_new_tokens=4)
            calls = [shared.generate(PROMPT, max_new_tokens=0, prompt_logprobs=i % 2 == 0) for i in range(4)]
            return await asyncio.gather(*calls, shared.generate(PROMPT, max_new_tokens=30))

    results = asyncio.run(program())
    assert results[0].prompt_scores == results[2].prompt_scores == alone
    assert results[1].prompt_scores is None


@pytest.mark.parametrize("value", [np.nan, np.inf, -np.inf])
def test_nan_and_infinity_end_the_row(ort, value):
    class Broken(Wrapped):
        def fetch(self, logits):
            values = super().fetch(logits).copy()
            values[..., 7] = value
            return values

    with pytest.raises(ttc.NumericsError, match="NaN or infinite logits in the prompt"):
        Engine(Broken(ort.runner)).generate(PROMPT, max_new_tokens=0, prompt_logprobs=True)
