"""The engine in somebody else's program: every bad input is refused in one line, and nothing has begun."""

import numpy as np
import pytest
import torch

import ttc
from tests.support.golden import golden

PROMPT = golden("tiny_a").vectors["prompt/p12"][0].tolist()


@pytest.mark.parametrize(
    "options",
    [
        {"batch": 0},
        {"batch": -1},
        {"batch": "two"},
        {"batch": True},
        {"batch": np.zeros((9, 9))},
        {"tokens": 0},
        {"tokens": 10**6},
        {"tokens": 2.5},
        {"block_size": 0},
        {"block_size": 513},
        {"block_size": None},
    ],
)
def test_warming_up_for_nonsense_is_refused(ort, options):
    says = rf"{next(iter(options))} is .*; valid: an integer from 1 to"
    with pytest.raises(ttc.InputError, match=says) as error:
        ort.warm_up(**options)
    assert "\n" not in str(error.value)


REFUSED = [
    ({"stop": ["a", "b", "c", "d", "e"]}, "stop has 5 texts; valid: up to 4"),
    ({"stop": ""}, "stop has an empty text"),
    ({"stop": ["a", ""]}, "stop has an empty text"),
    ({"stop": [1]}, "stop is [1]; valid: a text"),
    ({"stop": 5}, "stop is 5; valid: a text"),
    ({"n": 0}, "n is 0; valid: an integer from 1"),
    ({"n": 10**6}, "n is 1000000; valid: an integer from 1"),
    ({"choice": -1}, "choice is -1"),
    ({"deadline": 0}, "deadline is 0, which has passed"),
    ({"deadline": -1.5}, "deadline is -1.5, which has passed"),
    ({"deadline": "soon"}, "deadline is 'soon'; valid: seconds from now, above 0"),
    ({"deadline": float("inf")}, "deadline is inf; valid: seconds from now, above 0"),
    ({"deadline": 10**400}, "deadline is 1000"),
    ({"threshold": 10**400}, "threshold is 1000"),
    ({"mode": "prompt-lookup", "logprobs": True}, "logprobs does not apply to mode 'prompt-lookup'"),
    ({"logprobs": 1}, "logprobs is 1; valid: True or False"),
    ({"stop_at_eos": "no"}, "stop_at_eos is 'no'; valid: True or False"),
    ({"skip_special_tokens": None}, "skip_special_tokens is None"),
    ({"eos_token_id": 3}, "3 is the mask id"),
    ({"eos_token_id": [2, 3]}, "3 is the mask id"),
    ({"eos_token_id": {2: 1}}, "eos_token_id is {2: 1}; valid: a token id or several"),
    ({"eos_token_id": np.zeros((2, 2, 2))}, "eos_token_id is array"),
    ({"max_new_tokens": np.zeros((9, 9))}, "max_new_tokens is array"),
    ({"max_new_tokens": torch.tensor(True)}, "max_new_tokens is tensor(True)"),
    ({"steps": np.array(True)}, "steps is array(True)"),
    ({"threshold": torch.tensor(True)}, "threshold is tensor(True)"),
    ({"eos_token_id": iter([2])}, "eos_token_id is <list_iterator"),
    ({"min_tokens": 4}, "min_tokens does not apply to mode 'diffusion'"),
    ({"banned_token_ids": [4]}, "banned_token_ids does not apply to mode 'diffusion'"),
    ({"mode": "ar", "banned_token_ids": [128]}, "banned_token_ids is 128"),
    ({"mode": "ar", "banned_token_ids": range(128)}, "banned_token_ids holds the whole vocabulary"),
    (
        {"mode": "ar", "banned_token_ids": set(range(128)) - {2}, "min_tokens": 1},
        "banned_token_ids holds the whole vocabulary",
    ),
    ({"mode": "ar", "min_tokens": 9, "max_new_tokens": 8}, "min_tokens is 9, more than max_new_tokens 8"),
    ({"mode": "ar", "finish_early": True}, "finish_early does not apply to mode 'ar'"),
    ({"mode": np.zeros((3, 3))}, "unknown mode"),
    ({"mode": ["ar"]}, "unknown mode ['ar']"),
    ({"cancel": "now"}, "cancel is str; valid: a ttc.Cancel"),
    ({"options": {"mode": "ar"}}, "options is dict; valid: ttc.GenerationOptions"),
]


@pytest.mark.parametrize(("options", "says"), REFUSED)
def test_bad_options_are_refused_in_one_line(talker, ort, options, says):
    engine = talker if "stop" in options else ort
    with pytest.raises(ttc.InputError) as error:
        engine.generate(PROMPT, **options)
    assert says in str(error.value)
    assert "\n" not in str(error.value)
    assert len(str(error.value)) < 500
    assert engine.core.idle


@pytest.mark.parametrize(
    ("prompt", "options", "says"),
    [
        ([ttc.Request(PROMPT, mode="ar")], {"mode": "diffusion"}, "mode is 'ar', but the call says"),
        (
            [PROMPT, ttc.Request(PROMPT, seed=1)],
            {"seed": 2},
            "prompt 1 of the batch: seed is 1, but the call",
        ),
        (
            [ttc.Request(PROMPT, eos_token_id=np.array([1, 2]))],
            {"eos_token_id": np.array([1, 4])},
            "eos_token_id is array([1, 2]), but the call says",
        ),
        ([PROMPT, ttc.Request(PROMPT, threshold=2)], {}, "threshold is 2; valid: 0 to 1"),
        (ttc.Request(PROMPT, fixed={0: 5}), {"mode": "ar"}, "fixed does not apply to mode 'ar'"),
        (ttc.Request(PROMPT, fixed={128: 5}), {}, "fixed has the position 128; valid: 0 to 127"),
        (ttc.Request(PROMPT, fixed={-1: 5}), {}, "fixed has the position -1"),
        (ttc.Request(PROMPT, fixed={"a": 5}), {}, "fixed has the position 'a'"),
        (ttc.Request(PROMPT, fixed={0: 3}), {}, "fixed holds the mask id 3"),
        (ttc.Request(PROMPT, fixed={0: 128}), {}, "token id 128"),
        (ttc.Request(PROMPT, fixed=[5]), {}, "fixed is list; valid: position → token id"),
        (ttc.Request([]), {}, "prompt is empty"),
        (ttc.Request(np.array(5)), {}, "prompt is a single number"),
        (torch.tensor(5), {}, "the prompt is a single number"),
        (torch.tensor([1.5, 2.0]), {}, "prompt"),
        (torch.tensor([True, False]), {}, "prompt"),
        ([np.zeros((2, 2, 2))], {}, "prompt 0 of the batch: element 0 is array"),
        (np.zeros((2, 2, 2, 2)), {}, "prompt 0 of the batch: element 0 is array"),
        (ttc.Request(ttc.Request(PROMPT)), {}, "prompt is Request"),
        ([PROMPT, None], {}, "prompt 1 of the batch is NoneType"),
    ],
)
def test_bad_requests_are_refused_in_one_line(ort, prompt, options, says):
    with pytest.raises(ttc.InputError) as error:
        ort.generate(prompt, **options)
    assert says in str(error.value)
    assert "\n" not in str(error.value)
    assert len(str(error.value)) < 500
    assert ort.core.idle


def test_what_a_request_cannot_know_is_refused_at_once(ort):
    with pytest.raises(TypeError, match="unknown option 'nonsense'; valid: mode, "):
        ttc.Request(PROMPT, nonsense=1)
    with pytest.raises(ttc.InputError, match="stop is text, but the bundle has no tokenizer"):
        ort.generate(PROMPT, stop="x")
