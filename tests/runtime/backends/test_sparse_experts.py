"""Experts that compute only where they were chosen, on ONNX Runtime: the same tokens, nearly the same
numbers.
"""

import numpy as np
import pytest

import ttc
from tests.support import tolerances
from tests.support.compare import assert_close
from tests.support.golden import CHECKPOINTS, golden
from tests.support.recorded import options_of, recorded, tokens_of


@pytest.mark.parametrize("name", CHECKPOINTS)
def test_golden_tokens(bundles, name):
    g = golden(name)
    with ttc.load(bundles(name), sparse_experts=True) as engine:
        for case_name, case in recorded(name).items():
            result = engine.generate(g.prompt(case)[0].tolist(), options_of(case))
            assert list(result.token_ids) == tokens_of(g, case_name), case_name
            assert list(result.stats.nfe_per_block) == case["nfe_per_block"], case_name


def test_the_same_numbers_as_from_all_experts(bundles, engines):
    prompt = golden("tiny_a").vectors["prompt/p33"][0].tolist()
    want = engines("tiny_a", "onnxruntime").context_logits(prompt)
    with ttc.load(bundles("tiny_a"), sparse_experts=True) as engine:
        got = engine.context_logits(prompt)
        assert np.abs(got - want).max() > 0, "another way to compute them"
        assert_close(got, want, tolerances.CONTEXT_LOGITS, "logits")


def test_lossless_is_ar(bundles):
    with ttc.load(bundles("tiny_a"), sparse_experts=True) as engine:
        options = {"max_new_tokens": 12, "stop_at_eos": False}
        ar = engine.generate([5, 6, 7], "ar", **options)
        assert engine.generate([5, 6, 7], "lossless", draft_steps=2, **options).token_ids == ar.token_ids


@pytest.mark.parametrize("given", [1, "yes", None])
def test_only_a_switch(bundles, given):
    with pytest.raises(ttc.InputError, match="sparse_experts is"):
        ttc.load(bundles("tiny_a"), sparse_experts=given)


def test_elsewhere_it_is_refused(bundles):
    with pytest.raises(ttc.InputError, match="sparse_experts is for backend 'onnxruntime' on the CPU"):
        ttc.load(bundles("tiny_a"), "torch", "cpu", sparse_experts=True)
