"""Lossless mode gives AR's tokens, whatever the denoiser drafts."""

import dataclasses
import json
import math
import shutil
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

import ttc
from tests.support.chains import Chain
from tests.support.golden import CHECKPOINTS, golden
from tests.support.recording import Wrapped
from tests.support.sample import sample
from ttc.formats.manifest import MANIFEST_FILE, Manifest
from ttc.runtime.decoding.speculative.acceptance import expected_tokens
from ttc.runtime.engine import Engine
from ttc.runtime.interface.backend import host_step
from ttc.runtime.interface.sampling import token_probabilities

MINIATURE = Path(ttc.__file__).parent / "miniature"
CONFIG = golden("tiny_a").config
RAGGED = ("p70", "p01", "p12", "p05", "p33", "p02", "p23", "p12_1")
PROMPT = golden("tiny_a").vectors["prompt/p12"][0].tolist()


def engine_over(backend, capacity=None):
    return Engine(backend, capacity=capacity)


def prompts_of(name):
    return [golden(name).vectors[f"prompt/{key}"][0].tolist() for key in RAGGED]


def tokens(results):
    return [result.token_ids for result in results]


def check_identical(engine, prompts, lossless=None, **options):
    """A batch, both ways; returns the lossless results."""
    want = engine.generate(prompts, "ar", **options)
    got = engine.generate(prompts, "lossless", **options, **(lossless or {}))
    assert tokens(got) == tokens(want)
    assert [result.finish_reason for result in got] == [result.finish_reason for result in want]
    return got


# Golden checkpoints and the miniature.


@pytest.mark.parametrize("name", sample(CHECKPOINTS, ("tiny_a", "tiny_c")))
def test_golden_checkpoints(name, engines, backend):
    """Random weights, so that nearly every draft is rejected: alone and in a ragged batch of 8."""
    engine, prompts = engines(name, backend), prompts_of(name)
    together = check_identical(engine, prompts, {"draft_steps": 2}, max_new_tokens=20, stop_at_eos=False)
    assert sum(each.accepted for result in together for each in result.stats.lossless.draft_records) < 80
    alone = check_identical(engine, prompts[2:3], {"draft_steps": 2}, max_new_tokens=20, stop_at_eos=False)
    assert alone[0].token_ids == together[2].token_ids


@pytest.mark.parametrize("name", CHECKPOINTS)
def test_golden_checkpoints_sampled(name, engines, backend):
    """The same seed gives the tokens that AR draws, with and without a filter."""
    engine, prompts = engines(name, backend), prompts_of(name)
    for options in ({}, {"top_p": 0.8}, {"top_k": 4}):
        given = {"temperature": 0.7, "seed": 8, "max_new_tokens": 12} | options
        check_identical(engine, prompts, {"draft_steps": 1}, **given)


def test_the_miniature(engines, bundles):
    """Trained weights: most drafts are accepted, greedy and sampled; the policy's choices change nothing."""
    engine = engines("miniature", "onnxruntime")
    lines = (MINIATURE / "problems.jsonl").read_text("utf-8").splitlines()
    problems = [json.loads(line) for line in lines]
    prompts = [problem["prompt"] for problem in problems if problem["task"] == "word"][:6]
    for choice in ({}, {"temperature": 0.8, "seed": 3}):
        for drafting in ({}, {"draft_steps": 1}, {"draft_steps": 3}):
            results = check_identical(engine, prompts, drafting, max_new_tokens=64, **choice)
            assert all(len(result.token_ids) > 10 for result in results)
            if "draft_steps" in drafting:
                rounds = [each for result in results for each in result.stats.lossless.draft_records]
                assert sum(each.accepted for each in rounds) / len(rounds) > 2
    # At a threshold at which the denoiser, which is as good as AR at its own, is wrong somewhere.
    diffusion = engine.generate(prompts, max_new_tokens=64, threshold=0.3)
    assert tokens(diffusion) != tokens(engine.generate(prompts, "ar", max_new_tokens=64)), (
        "else this shows little"
    )


# Adversarial prompts.


@pytest.mark.parametrize(
    "prompt", [[5], [7] * 40, [3, 3, 3], list(range(64))], ids=["one", "repeated", "masks", "chunk"]
)
def test_odd_prompts(engine, prompt):
    check_identical(engine, [prompt], {"draft_steps": 2}, max_new_tokens=24, stop_at_eos=False)


@pytest.fixture
def engine(engines, backend):
    return engines("tiny_a", backend)


@pytest.mark.parametrize("count", [0, 1, 2, 15, 16, 17])
@pytest.mark.parametrize("block_size", [1, 2, 16])
def test_any_number_of_new_tokens(engine, count, block_size):
    results = check_identical(
        engine, [PROMPT], {"block_size": block_size}, max_new_tokens=count, stop_at_eos=False
    )
    assert len(results[0].token_ids) == count


def test_eos_first(engine):
    first = engine.generate(PROMPT, "ar", max_new_tokens=1, stop_at_eos=False).token_ids[0]
    result = check_identical(engine, [PROMPT], {}, max_new_tokens=20, eos_token_id=first)[0]
    assert (result.token_ids, result.stats.lossless.draft_records) == ((first,), ())
    assert (result.finish_reason, result.stats.context_calls) == ("eos", 1)


def test_capacity_reached_inside_a_block(bundles, engine, backend):
    """Prompt and new tokens fill the cache to the last place, rows at different distances from it."""
    prompts = [PROMPT, PROMPT[:3], PROMPT[:9]]
    with ttc.load(bundles("tiny_a"), *backend.split("@"), capacity=len(PROMPT) + 11) as small:
        check_identical(small, prompts, {"draft_steps": 1}, max_new_tokens=11, stop_at_eos=False)


# A fake denoiser of any quality over a fake AR model.


def chain(seed, quality, peak=8.0, vocabulary=CONFIG.vocab_size):
    """A random chain whose mask id is never the likeliest."""
    config = dataclasses.replace(CONFIG, vocab_size=vocabulary)
    logits = np.random.default_rng(seed).standard_normal((vocabulary, vocabulary)).astype(np.float32)
    logits[np.arange(vocabulary), (np.arange(vocabulary) * 5 + 1) % vocabulary] += peak
    logits[:, config.mask_token_id] = -20.0
    return Chain(config, logits, quality, seed)


@given(
    seed=st.integers(0, 2**32 - 1),
    quality=st.sampled_from([0.0, 0.3, 0.7, 0.95, 1.0]),
    rows=st.integers(1, 4),
    block_size=st.integers(1, 20),
    draft_steps=st.sampled_from([1, 2, "auto"]),
    temperature=st.sampled_from([0.0, 0.9]),
    count=st.integers(1, 45),
    eos=st.sampled_from([None, 5, [9, 17]]),
)
def test_every_draft_quality(seed, quality, rows, block_size, draft_steps, temperature, count, eos):
    """The text is AR's; a round accepts exactly the drafted prefix that was right; events tell all of it."""
    backend = chain(seed, quality)
    prompts = [[1, 2 + row] * (1 + row) for row in range(rows)]
    engine = engine_over(backend, capacity=2 * rows + count)  # the longest just fits
    options = {
        "max_new_tokens": count,
        "temperature": temperature,
        "seed": seed if temperature else None,
        "eos_token_id": eos,
        "stop_at_eos": eos is not None,
    }
    want = engine.generate(prompts, "ar", **options)
    backend.right.clear()
    stream = engine.stream(
        prompts, mode="lossless", block_size=block_size, draft_steps=draft_steps, **options
    )
    events = []
    while True:
        try:
            events.append(next(stream))
        except StopIteration as end:
            got = end.value
            break
    assert tokens(got) == tokens(want)
    assert [result.finish_reason for result in got] == [result.finish_reason for result in want]
    for row, result in enumerate(got):
        own = [event for event in events if event.row == row and event.committed]
        assert sum((event.token_ids for event in own), ()) == result.token_ids
        assert [event.block_index for event in own] == list(range(len(own)))
        assert [event.step for event in own] == list(result.stats.nfe_per_block)
        rounds = result.stats.lossless.draft_records
        assert tuple(event.draft_record for event in own) == (None, *rounds)
        for event in own[1:]:
            assert event.draft_record.drafted == event.draft_record.accepted + len(event.rejected)
            assert event.draft_record.drafted <= block_size - 1
            assert len(event.token_ids) <= event.draft_record.accepted + 1
        assert result.stats.context_calls == 1 + len(rounds)
    if temperature == 0 and draft_steps == 1 and rows == 1:
        drafts = [each for each in got[0].stats.lossless.draft_records if each.drafted]
        for each, right in zip(drafts, backend.right, strict=True):
            leading = int(np.argmin([*right[0], False]))
            assert each.accepted == min(leading, each.drafted)


def test_the_mean_acceptance_length_follows_the_formula():
    """1 + Σ pⁱ tokens a round for a denoiser that is right with probability p."""
    for quality in (0.2, 0.6, 0.9):
        result = engine_over(chain(3, quality)).generate(
            [1, 2], "lossless", max_new_tokens=1500, draft_steps=1, block_size=8, stop_at_eos=False
        )
        figures = result.stats.lossless
        (want,) = expected_tokens([quality] * 7)[-1:]
        assert want == pytest.approx(1 + sum(quality**i for i in range(1, 8)))
        spread = np.std([each.accepted for each in figures.draft_records]) / math.sqrt(
            len(figures.draft_records)
        )
        assert abs(figures.mean_acceptance_length - want) < 4 * spread
        for rate in figures.acceptance_rate_per_position[:3]:
            assert rate == pytest.approx(quality, abs=0.1)


def test_ar_writes_the_mask_id(engines):
    """For AR the mask id is a token like any other; as the pending one it stays what it is."""
    backend = chain(1, 0.8)
    backend.logits[4, CONFIG.mask_token_id] = 30.0
    backend.logits[:, 4] += 9.0
    results = check_identical(
        engine_over(backend), [[1, 2]], {"draft_steps": 2}, max_new_tokens=40, stop_at_eos=False
    )
    assert CONFIG.mask_token_id in results[0].token_ids


# Sampling.


def chi_square(counts, expected):
    """The statistic and what it may reach: its mean plus five standard deviations."""
    used = expected > 0
    assert not counts[~used].any(), "something that cannot be was drawn"
    freedom = used.sum() - 1
    value = ((counts - expected)[used] ** 2 / expected[used]).sum()
    return value, freedom + 5 * math.sqrt(2 * freedom)


@pytest.mark.parametrize("filters", [{}, {"top_p": 0.8}, {"top_k": 3}])
def test_sampled_text_has_the_distribution_of_ar(filters):
    """Six tokens, 4000 seeds: how often each pair follows the prompt, against the exact probabilities."""
    backend, rows, temperature = chain(11, 0.5, peak=1.0, vocabulary=6), 4000, 1.3
    results = engine_over(backend).generate(
        [ttc.Request([1, 2], seed=seed) for seed in range(rows)],
        "lossless",
        max_new_tokens=3,
        temperature=temperature,
        draft_steps=1,
        stop_at_eos=False,
        **filters,
    )
    exact = token_probabilities(
        backend.logits, temperature, filters.get("top_k"), filters.get("top_p")
    ).astype(np.float64)
    pairs = np.zeros((6, 6))
    for first, second, _ in tokens(results):
        pairs[first, second] += 1
    value, bound = chi_square(pairs.ravel(), (exact[2][:, None] * exact).ravel() * rows)
    assert value < bound
    thirds = np.bincount([third for _, _, third in tokens(results)], minlength=6)
    value, bound = chi_square(thirds, exact[2] @ exact @ exact * rows)
    assert value < bound


def test_a_draft_is_accepted_with_its_probability():
    """One drafted token that does not depend on the noise: accepted as often as AR would draw it."""
    backend, rows = chain(11, 1.0, peak=1.0, vocabulary=6), 4000
    results = engine_over(backend).generate(
        [ttc.Request([1, 2], seed=seed) for seed in range(rows)],
        "lossless",
        max_new_tokens=3,
        block_size=2,
        temperature=1.3,
        draft_steps=1,
        stop_at_eos=False,
    )
    exact = token_probabilities(backend.logits, 1.3, None, None)
    for pending in range(6):
        first = [
            result.stats.lossless.draft_records[0] for result in results if result.token_ids[0] == pending
        ]
        want, n = exact[pending].max(), len(first)
        accepted = sum(each.accepted for each in first)
        assert abs(accepted - n * want) <= 5 * math.sqrt(n * want * (1 - want)), f"after {pending}"


def test_drafts_share_the_noise_of_ar():
    """A denoiser with AR's distribution drafts what AR draws, though that is mostly not the best token."""

    class Twin(Chain):
        def denoise(self, state, block_ids, t, rows=None):
            super().denoise(state, block_ids, t, rows)
            return np.broadcast_to(self.logits[0], (*block_ids.shape, self.config.vocab_size)).copy()

    backend = chain(2, 1.0)
    backend = Twin(backend.config, np.broadcast_to(backend.logits[0] * 0.1, backend.logits.shape).copy(), 1.0)
    result = check_identical(
        engine_over(backend),
        [[1, 2]],
        {"draft_steps": 3},
        max_new_tokens=49,
        temperature=1.0,
        seed=4,
        stop_at_eos=False,
    )[0]
    assert [(each.drafted, each.accepted) for each in result.stats.lossless.draft_records] == [(15, 15)] * 3
    assert len(set(result.token_ids)) > 20


# What is never done, and what is refused.


def test_the_prompt_is_read_once(engines, backend):
    """Every call behind the prompt reads a block, and each place is committed once."""
    inner = engines("tiny_a", backend).runner

    class Widths(Wrapped):
        def context(self, state, input_ids, commit_len, logit_positions, save=False, rows=None):
            widths.append(input_ids.shape[1])
            return super().context(state, input_ids, commit_len, logit_positions, save, rows)

    widths = []
    prompt = golden("tiny_a").vectors["prompt/p70"][0].tolist()
    result = engine_over(Widths(inner)).generate(
        prompt, "lossless", max_new_tokens=20, draft_steps=1, stop_at_eos=False
    )
    assert widths[:2] == [64, 6]
    assert [each.drafted + 1 for each in result.stats.lossless.draft_records] == widths[2:]


def test_nan_in_the_denoiser_is_reported(engines):
    """The state is the context tower's alone, and the engine goes on."""

    class Broken(Wrapped):
        broken = True

        def step(self, logits, inputs):
            values = self.fetch(logits)
            return host_step(values * np.nan if self.broken else values, inputs, self.config.mask_token_id)

    backend = Broken(engines("tiny_a", "onnxruntime").runner)
    engine = engine_over(backend)
    with pytest.raises(ttc.NumericsError, match="the denoiser gave NaN in block 1, denoise step 0"):
        engine.generate(PROMPT, "lossless", max_new_tokens=8, draft_steps=1)
    backend.broken = False
    check_identical(engine, [PROMPT], {"draft_steps": 1}, max_new_tokens=8)


def test_a_bundle_without_an_advance_graph(bundles, tmp_path):
    """Such as were exported before the mode existed: all other modes work, this one says what to do."""
    old = tmp_path / "old.bundle"
    shutil.copytree(bundles("tiny_a"), old)
    manifest = Manifest.from_json((old / MANIFEST_FILE).read_bytes())
    graphs = dict(manifest.graphs)
    file = graphs.pop("advance")
    (old / file).unlink()
    kept = {
        name: dataclasses.replace(entry, graphs=tuple(role for role in entry.graphs if role != "advance"))
        for name, entry in manifest.weights.map.items()
    }
    older = dataclasses.replace(
        manifest,
        graphs=graphs,
        files={name: record for name, record in manifest.files.items() if name != file},
        weights=dataclasses.replace(manifest.weights, map=kept),
    )
    (old / MANIFEST_FILE).write_bytes(older.to_json())
    with ttc.load(old) as engine:
        assert len(engine.generate(PROMPT, "ar", max_new_tokens=3, stop_at_eos=False).token_ids) == 3
        with pytest.raises(ttc.BundleError, match=r"needs an advance graph.*export the checkpoint again"):
            engine.generate(PROMPT, "lossless", max_new_tokens=3)
        with pytest.raises(ttc.BundleError, match="advance graph"):
            engine.stream(PROMPT, mode="lossless")
