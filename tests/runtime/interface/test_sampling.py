"""Sampling: recorded distributions, seeds, both backends."""

import numpy as np
import pytest

from tests.support import tolerances
from tests.support.compare import assert_close, assert_equal
from tests.support.golden import CHECKPOINTS, golden
from ttc.plugins.counter_rng import row_key
from ttc.runtime.interface.sampling import RowSampling, next_tokens, token_probabilities

UNITS = golden("units")
GREEDY = RowSampling(0.0, None, None, 0, 0)


@pytest.mark.parametrize("name", UNITS.cases_of("ar_sample/"))
def test_recorded_distributions(name):
    case, logits = UNITS.cases[name], UNITS.vectors["ar_sample/logits"]
    if f"{name}/probs" not in UNITS.vectors:
        greedy = next_tokens(logits, [GREEDY] * 4)
        assert_equal(greedy, UNITS.vectors["ar_sample/greedy/token"][:, 0], "greedy")
        return
    got = token_probabilities(logits, case["temperature"], case["top_k"], case["top_p"])
    assert_close(got, UNITS.vectors[f"{name}/probs"], tolerances.PROBABILITIES, name)


def test_greedy_takes_the_lowest_of_equals():
    logits = np.zeros((1, 9), np.float32)
    assert next_tokens(logits, [GREEDY]).tolist() == [0]


def test_draws_follow_the_filtered_distribution():
    """5,000 draws: never outside top-k/top-p, and as often as the probabilities say."""
    rng = np.random.default_rng(0)
    logits = np.repeat(rng.standard_normal((1, 30)).astype(np.float32) * 2, 5000, axis=0)
    drawn = next_tokens(logits, [RowSampling(0.8, 6, 0.9, row_key(7, row), 11) for row in range(5000)])
    p = token_probabilities(logits[:1], 0.8, 6, 0.9)[0]
    counts = np.bincount(drawn, minlength=30)
    assert (counts[p == 0] == 0).all()
    kept = p > 0
    chi = ((counts[kept] - 5000 * p[kept]) ** 2 / (5000 * p[kept])).sum()
    assert chi < 25, f"chi-square {chi:.1f} at {kept.sum() - 1} degrees of freedom"


SAMPLED = [
    {"mode": "diffusion", "temperature": 0.7},
    {"mode": "ar", "temperature": 0.9, "top_k": 20, "top_p": 0.95},
    {"mode": "mock-ar", "temperature": 1.2},
]


@pytest.mark.parametrize("options", SAMPLED, ids=lambda options: options["mode"])
@pytest.mark.parametrize("name", CHECKPOINTS)
def test_same_seed_same_tokens_on_both_backends(engines, name, options):
    prompts = [golden(name).vectors[f"prompt/{p}"][0].tolist() for p in ("p12", "p23")]
    results = {
        backend: engines(name, backend).generate(
            prompts, max_new_tokens=32, seed=1234, stop_at_eos=False, **options
        )
        for backend in ("onnxruntime", "torch")
    }
    for a, b in zip(results["onnxruntime"], results["torch"], strict=True):
        assert a.token_ids == b.token_ids
        assert a.stats.seed == b.stats.seed == 1234


@pytest.mark.parametrize("options", SAMPLED, ids=lambda options: options["mode"])
def test_seeds_matter_and_are_told(engines, options):
    engine = engines("tiny_a", "onnxruntime")
    prompt = golden("tiny_a").vectors["prompt/p12"][0].tolist()

    def run(seed):
        return engine.generate(prompt, max_new_tokens=32, seed=seed, stop_at_eos=False, **options)

    first = run(None)
    assert first.stats.seed is not None
    assert run(first.stats.seed).token_ids == first.token_ids
    assert run(1).token_ids == run(1).token_ids
    assert len({run(seed).token_ids for seed in range(5)}) > 1
    pair = engine.generate([prompt, prompt], max_new_tokens=32, seed=3, stop_at_eos=False, **options)
    assert [row.token_ids for row in pair] == [run(3).token_ids] * 2, "a row of a batch is the row alone"
    two = engine.generate(prompt, n=2, max_new_tokens=32, seed=3, stop_at_eos=False, **options)
    assert two[0].token_ids == run(3).token_ids
    assert two[1].token_ids != two[0].token_ids, "choices of one prompt draw their own numbers"
