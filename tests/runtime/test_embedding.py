"""The engine in somebody else's program: requests with options of their own, and what comes of them."""

import numpy as np
import pytest
import torch

import ttc
from tests.support.golden import golden
from tests.support.recording import Wrapped
from ttc.runtime.engine import Engine

VECTORS = golden("tiny_a").vectors
PROMPT = VECTORS["prompt/p12"][0].tolist()
PROMPTS = [VECTORS[f"prompt/{name}"][0].tolist() for name in ("p12", "p05", "p33", "p01")]
QUESTION = "Question: Ada has 9 bags with 9 stamps each. Ada sells 4 of them. How many stamps?\nAnswer:"
FREE = {"max_new_tokens": 20, "stop_at_eos": False}
MODES = ["diffusion", "ar", "lossless"]


def told(result):
    """What of a result must not depend on the neighbours; lossless's own nfe goes by the clock."""
    nfe = result.stats.nfe_per_block if result.stats.mode == "diffusion" else None
    return result.token_ids, result.finish_reason, result.logprobs, nfe


@pytest.mark.parametrize("mode", MODES)
def test_a_row_of_a_batch_is_the_call_alone(ort, mode):
    """Each with a seed, a temperature and a length of its own."""
    requests = [
        ttc.Request(prompt, seed=7 + i, temperature=(0.0, 0.7, 1.0, 1.3)[i], max_new_tokens=5 + 7 * i)
        for i, prompt in enumerate(PROMPTS)
    ]
    together = ort.generate(requests, mode, stop_at_eos=False)
    alone = [ort.generate(request, mode, stop_at_eos=False) for request in requests]
    assert [told(result) for result in together] == [told(result) for result in alone]
    assert [len(result.token_ids) for result in together] == [5, 12, 19, 26]
    assert [result.stats.seed for result in together] == [None, 8, 9, 10]


def test_modes_share_a_batch(ort):
    requests = [ttc.Request(PROMPT, mode=mode, max_new_tokens=12) for mode in (*MODES, "mock-ar")]
    together = ort.generate([*requests, PROMPT], stop_at_eos=False, block_size=8)
    alone = [ort.generate(request, stop_at_eos=False, block_size=8) for request in requests]
    assert [result.token_ids for result in together[:4]] == [result.token_ids for result in alone]
    assert together[4].stats.mode == "diffusion"
    assert len(together[4].token_ids) == 128


@pytest.mark.parametrize("mode", MODES)
def test_choices_of_a_prompt(ort, mode):
    """Choice i of n is the call with that choice alone, whatever the neighbours."""
    options = {**FREE, "temperature": 1.0, "seed": 11}
    choices = ort.generate(PROMPT, mode, n=3, **options)
    assert [result.stats.choice for result in choices] == [0, 1, 2]
    assert len({result.token_ids for result in choices}) == 3
    for i, result in enumerate(choices):
        assert told(result) == told(ort.generate(PROMPT, mode, choice=i, **options))
    request = ttc.Request(PROMPT, n=2)
    nested = ort.generate([PROMPTS[1], request], mode, **options)
    assert [told(result) for result in nested[1:]] == [told(result) for result in choices[:2]]


def test_every_prompt_without_a_seed_draws_its_own(ort):
    rows = ort.generate([PROMPT] * 3, temperature=5.0, max_new_tokens=6, stop_at_eos=False)
    assert len({row.stats.seed for row in rows}) == 3
    assert len({row.token_ids for row in rows}) == 3
    choices = ort.generate(PROMPT, n=2, temperature=5.0, max_new_tokens=6, stop_at_eos=False)
    assert len({row.stats.seed for row in choices}) == 1


def test_a_call_and_a_request_may_say_the_same_in_two_ways(talker):
    both = {"stop": ["."], "max_new_tokens": 4}
    assert talker.generate([ttc.Request("a", stop=".")], **both)[0].token_ids
    own = talker.generate([ttc.Request("a", mode="ar")], ttc.GenerationOptions(max_new_tokens=2))
    assert own[0].stats.mode == "ar"


def test_numbers_may_be_arrays_without_dimensions(ort):
    given = {"threshold": np.array(0.9), "temperature": torch.tensor(0.0), "max_new_tokens": np.int64(4)}
    want = ort.generate(PROMPT, threshold=0.9, max_new_tokens=4)
    assert ort.generate(PROMPT, **given).token_ids == want.token_ids


def test_a_seed_that_nobody_gave_reproduces_the_run(ort):
    first = ort.generate(PROMPT, n=2, temperature=1.0, **FREE)
    again = ort.generate(PROMPT, n=2, temperature=1.0, seed=first[0].stats.seed, **FREE)
    assert [result.token_ids for result in first] == [result.token_ids for result in again]


@pytest.mark.parametrize("mode", MODES)
def test_stop_texts(talker, mode):
    """At every place of the text: inside a block, inside a token and over the border of two."""
    whole = talker.generate(QUESTION, mode, max_new_tokens=40, stop_at_eos=False)
    text = whole.text
    assert len(text) > 30
    for first, last in [(3, 4), (7, 12), (18, 25), (0, 2)]:
        stop = text[first:last]
        result = talker.generate(QUESTION, mode, max_new_tokens=40, stop_at_eos=False, stop=stop)
        assert result.finish_reason == "stop"
        assert result.text == text[: text.index(stop)]
        kept = len(result.token_ids)
        assert result.token_ids == whole.token_ids[:kept]
        assert stop in talker.tokenizer.decode(list(result.token_ids))
        assert stop not in talker.tokenizer.decode(list(result.token_ids[:-1]))


def test_the_first_of_several_stop_texts(talker):
    options = {"max_new_tokens": 40, "stop_at_eos": False}
    text = talker.generate(QUESTION, **options).text
    stops = [text[20:23], "never there", text[6:9], text[12:14]]
    result = talker.generate(QUESTION, stop=stops, **options)
    assert result.text == text[: min(text.index(stop) for stop in stops if stop in text)]
    never = talker.generate(QUESTION, stop=["never there", "nor this"], **options)
    assert (never.text, never.finish_reason) == (text, "length")


@pytest.mark.parametrize("mode", MODES)
def test_pieces_never_show_part_of_a_stop_text(talker, mode):
    options = {"max_new_tokens": 40, "stop_at_eos": False}
    text = talker.generate(QUESTION, mode, **options).text
    for stop in (text[17:24], text[5:6]):
        events = list(talker.stream(QUESTION, mode, stop=stop, **options))
        assert "".join(event.text or "" for event in events) == text[: text.index(stop)]
        assert events[-1].finish_reason == "stop"
    # The beginning of one that never comes is held back, and comes at the end.
    events = list(talker.stream(QUESTION, mode, stop=text[-3:] + "\0", **options))
    assert "".join(event.text or "" for event in events) == text


@pytest.mark.parametrize("mode", MODES)
def test_without_a_length_the_context_ends_the_text(ort, mode):
    with_capacity = Engine(Wrapped(ort.runner), capacity=40)
    result = with_capacity.generate(PROMPT, mode, max_new_tokens=None, stop_at_eos=False)
    assert (len(result.token_ids), result.finish_reason) == (28, "length")
    eos = result.token_ids[3]
    ended = with_capacity.generate(PROMPT, mode, max_new_tokens=None, eos_token_id=eos)
    assert ended.finish_reason == "eos"
    full = with_capacity.generate([5] * 40, mode, max_new_tokens=None)
    assert (full.token_ids, full.finish_reason) == ((), "length")


@pytest.mark.parametrize("kind", [set, np.array, torch.tensor, tuple, lambda ids: np.array(ids[0])])
def test_eos_as_a_set_or_an_array(ort, kind):
    free = ort.generate(PROMPT, **FREE)
    eos = free.token_ids[9]
    result = ort.generate(PROMPT, max_new_tokens=20, eos_token_id=kind([eos]))
    assert result.token_ids == free.token_ids[: free.token_ids.index(eos) + 1]


@pytest.mark.parametrize("mode", ["ar", "lossless", "mock-ar", "prompt-lookup"])
def test_min_tokens_and_banned_tokens(ort, mode):
    free = ort.generate(PROMPT, mode, **FREE)
    eos, banned = free.token_ids[3], tuple(set(free.token_ids[6:9]))
    short = ort.generate(PROMPT, mode, max_new_tokens=20, eos_token_id=eos)
    assert len(short.token_ids) <= 4
    longer = ort.generate(PROMPT, mode, max_new_tokens=20, eos_token_id=eos, min_tokens=10)
    assert len(longer.token_ids) >= 10
    assert eos not in longer.token_ids[:9]
    without = ort.generate(PROMPT, mode, banned_token_ids=banned, **FREE)
    assert not set(banned) & set(without.token_ids)


@pytest.mark.parametrize("options", [{}, {"temperature": 1.0, "seed": 5}, {"banned_token_ids": [32, 97]}])
def test_lossless_is_ar_whatever_is_banned(ort, options):
    options = {"max_new_tokens": 24, "min_tokens": 12, "eos_token_id": [9, 32, 46, 61], **options}
    ar = ort.generate(PROMPTS, "ar", logprobs=True, **options)
    lossless = ort.generate(PROMPTS, "lossless", logprobs=True, draft_steps=2, **options)
    for one, other in zip(ar, lossless, strict=True):
        assert (one.token_ids, one.finish_reason) == (other.token_ids, other.finish_reason)
        assert one.logprobs == pytest.approx(other.logprobs, abs=1e-3)


def test_room_that_is_not_used_is_not_taken(ort):
    """What a row may come to does not decide what its attention runs over."""

    class Measured(Wrapped):
        capacities = ()

        def new_state(self, batch, capacity):
            self.capacities = (*self.capacities, capacity)
            return super().new_state(batch, capacity)

    backend = Measured(ort.runner)
    eos = ort.generate(PROMPT, "ar", **FREE).token_ids[15]
    for options in ({"max_new_tokens": 4000}, {"max_new_tokens": None}):
        Engine(backend).generate(PROMPT, "ar", eos_token_id=eos, **options)
    assert set(backend.capacities) == {128}


def test_a_fallback_is_logged_once(talker, caplog):
    for _ in range(2):
        result = talker.generate(QUESTION, max_new_tokens=1)
    assert "bfloat16" in result.stats.notes[0]
    assert not caplog.records


def test_finish_early_gives_the_same_tokens_for_less(ort):
    for count in (1, 5, 20):
        options = {"max_new_tokens": count, "stop_at_eos": False}
        full = ort.generate(PROMPT, **options)
        early = ort.generate(PROMPT, finish_early=True, **options)
        assert early.token_ids == full.token_ids
        assert early.stats.nfe <= full.stats.nfe
    assert ort.generate(PROMPT, max_new_tokens=1, finish_early=True).stats.nfe < full.stats.nfe_per_block[0]
    eos = full.token_ids[2]
    options = {"max_new_tokens": 20, "eos_token_id": eos}
    assert ort.generate(PROMPT, finish_early=True, **options).token_ids == (
        ort.generate(PROMPT, **options).token_ids
    )


@pytest.mark.parametrize("mode", [*MODES, "mock-ar"])
def test_every_token_has_a_logprob(ort, mode):
    results = ort.generate(PROMPTS, mode, logprobs=True, max_new_tokens=19, eos_token_id=[32, 9])
    for result in results:
        assert len(result.logprobs) == len(result.token_ids)
        assert all(-60 < value <= 0 for value in result.logprobs)
    assert ort.generate(PROMPT, mode, max_new_tokens=2).logprobs is None


@pytest.mark.parametrize("mode", ["ar", "lossless"])
def test_logprobs_are_the_models_own(ort, mode):
    """Log softmax of the logits, whatever the temperature."""
    result = ort.generate(PROMPT, mode, logprobs=True, temperature=0.8, seed=2, **FREE)
    logits = ort.context_logits([*PROMPT, *result.token_ids])[len(PROMPT) - 1 : -1].astype(np.float64)
    log_softmax = logits - np.log(np.exp(logits).sum(-1, keepdims=True))
    want = log_softmax[np.arange(len(result.token_ids)), list(result.token_ids)]
    assert result.logprobs == pytest.approx(want, abs=1e-3)


def test_control_tokens_in_the_text(talker):
    """Kept or left out in what comes back; read as they are written in what goes in."""
    tokenizer = talker.tokenizer
    skipped = talker.generate(QUESTION, max_new_tokens=64)
    assert skipped.finish_reason == "eos"
    shown = talker.generate(QUESTION, max_new_tokens=80, stop_at_eos=False, skip_special_tokens=False)
    hidden = talker.generate(QUESTION, max_new_tokens=80, stop_at_eos=False)
    assert "</s>" in shown.text
    assert hidden.text == shown.text.replace("</s>", "").replace("<s>", "").replace("<pad>", "")

    hostile = "<mask></s> 7"
    heard = talker.read(hostile, "ar", {}, None).rows[0].request.prompt
    split = talker.read(hostile, "ar", {"split_special_tokens": True}, None).rows[0].request.prompt
    assert {2, 3} <= set(heard)
    assert not {2, 3} & set(split)
    assert tokenizer.decode(list(split)) == hostile
    plain = "Ada has 12"
    assert talker.read(plain, "ar", {"split_special_tokens": True}, None).rows[0].request.prompt == tuple(
        tokenizer.encode(plain).ids
    )


@pytest.mark.parametrize("mode", [*MODES, "mock-ar", "prompt-lookup"])
def test_the_last_event_has_the_result(talker, mode):
    stream = talker.stream([QUESTION, "7"], mode, max_new_tokens=18)
    events = list(stream)
    for row in (0, 1):
        own = [event for event in events if event.row == row]
        assert all(event.finish_reason is None and event.result is None for event in own[:-1])
        assert own[-1].finish_reason == own[-1].result.finish_reason
        assert "".join(event.text or "" for event in own) == own[-1].result.text
        assert sum((event.token_ids for event in own if event.committed), ()) == own[-1].result.token_ids
    (event,) = talker.stream("7", mode, max_new_tokens=0)
    assert (event.finish_reason, event.result.token_ids, event.text) == ("length", (), "")


def test_fixed_tokens_stand_and_the_others_are_filled_in(ort):
    fixed = {0: 9, 5: 77, 17: 20, 19: 4}
    result = ort.generate(ttc.Request(PROMPT, fixed=fixed), **FREE)
    assert all(result.token_ids[position] == token for position, token in fixed.items())
    assert result.token_ids != ort.generate(PROMPT, **FREE).token_ids
    given = {i: 40 + i for i in range(20)}
    everything = ort.generate(ttc.Request(PROMPT, fixed=given, max_new_tokens=20), stop_at_eos=False)
    assert everything.token_ids == tuple(given.values())


@pytest.mark.parametrize(
    "prompt",
    [
        np.array(PROMPT),
        torch.tensor(PROMPT),
        tuple(np.int64(token) for token in PROMPT),
        [np.array(token) for token in PROMPT],
        list(torch.tensor(PROMPT)),
        ttc.Request(torch.tensor(PROMPT, dtype=torch.int32)),
    ],
)
def test_arrays_and_tensors_as_prompts(ort, prompt):
    want = ort.generate(PROMPT, **FREE).token_ids
    assert ort.generate(prompt, **FREE).token_ids == want
    assert [result.token_ids for result in ort.generate([prompt, prompt], **FREE)] == [want] * 2


def test_two_dimensions_are_a_batch(ort):
    want = ort.generate(PROMPT, **FREE).token_ids
    for batch in (np.array([PROMPT, PROMPT]), torch.tensor([PROMPT, PROMPT])):
        assert [result.token_ids for result in ort.generate(batch, **FREE)] == [want] * 2
