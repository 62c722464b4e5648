"""The engine in somebody else's program: requests with options of their own, ends, cancels, faults."""

import os
import threading
import time
from concurrent.futures import ThreadPoolExecutor

import numpy as np
import pytest
import torch

import ttc
from tests.support.golden import golden
from tests.support.recording import Wrapped
from ttc.model.graphs import is_mamba_state
from ttc.runtime.engine import Engine

VECTORS = golden("tiny_a").vectors
PROMPT = VECTORS["prompt/p12"][0].tolist()
PROMPTS = [VECTORS[f"prompt/{name}"][0].tolist() for name in ("p12", "p05", "p33", "p01")]
QUESTION = "Question: Ada has 9 bags with 9 stamps each. Ada sells 4 of them. How many stamps?\nAnswer:"
FREE = {"max_new_tokens": 20, "stop_at_eos": False}
MODES = ["diffusion", "ar", "lossless"]


@pytest.fixture
def ort(engines):
    return engines("tiny_a", "onnxruntime")


@pytest.fixture
def talker(engines):
    """An engine with a tokenizer."""
    return engines("miniature", "onnxruntime", None)


def told(result):
    """What of a result must not depend on the neighbours; lossless's own nfe goes by the clock."""
    nfe = result.stats.nfe_per_block if result.stats.mode == "diffusion" else None
    return result.token_ids, result.finish_reason, result.logprobs, nfe


class Slow(Wrapped):
    """Takes its time; says when the first context call begins."""

    def __init__(self, inner, seconds=0.01):
        super().__init__(inner)
        self.seconds, self.calls, self.begun = seconds, 0, threading.Event()

    def context(self, *args, **more):
        self.calls += 1
        self.begun.set()
        time.sleep(self.seconds)
        return super().context(*args, **more)


@pytest.fixture
def slow(ort):
    """An engine whose context calls take 10 ms, and its backend."""
    backend = Slow(ort.runner)
    return Engine(backend), backend


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


@pytest.mark.parametrize("mode", ["ar", "lossless"])
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


@pytest.mark.parametrize("mode", MODES)
def test_cancel_from_another_thread(slow, mode):
    """Within one tick: as soon as the tick that runs has ended."""
    engine, backend = slow
    cancel, seen = ttc.Cancel(), []
    with ThreadPoolExecutor() as pool:
        waiting = pool.submit(
            engine.generate, PROMPT, mode, cancel=cancel, draft_steps=2, max_new_tokens=2000
        )
        assert backend.begun.wait(10)
        cancel.cancel()
        seen.append(backend.calls)
        result = waiting.result(10)
    assert result.finish_reason == "cancelled"
    assert backend.calls <= seen[0] + 2, "what the tick under way still had to do"
    assert engine.core.idle
    again = engine.generate([PROMPT, PROMPT[:3]], mode, cancel=cancel, max_new_tokens=4)
    assert [result.token_ids for result in again] == [(), ()], "a cancel stays one"


def test_deadlines_are_of_rows(slow):
    engine, _ = slow
    with pytest.raises(ttc.DeadlineExceeded, match=r"the deadline passed after \d+ of at most 2000 tokens"):
        engine.generate(PROMPT, "ar", deadline=0.05, max_new_tokens=2000, stop_at_eos=False)
    late, fine = engine.generate(
        [
            ttc.Request(PROMPT, deadline=0.05, max_new_tokens=2000),
            ttc.Request(PROMPT, deadline=100, max_new_tokens=20),
        ],
        "ar",
        stop_at_eos=False,
    )
    assert (late.finish_reason, type(late.error)) == ("error", ttc.DeadlineExceeded)
    assert 0 < len(late.token_ids) < 2000
    assert (fine.finish_reason, len(fine.token_ids)) == ("length", 20)


def test_closing_a_stream_ends_who_waits_for_it(slow):
    engine, backend = slow
    stream = engine.stream(PROMPT, "ar", max_new_tokens=2000, stop_at_eos=False)
    with ThreadPoolExecutor() as pool:
        waiting = pool.submit(lambda: len(list(stream)))
        assert backend.begun.wait(10)
        stream.close()
        assert waiting.result(10) < 2000
    assert engine.core.idle
    stream.close()
    assert list(stream) == []


def test_a_stream_that_is_forgotten_leaves(slow):
    engine, _ = slow
    stream = engine.stream(PROMPT, "ar", max_new_tokens=2000, stop_at_eos=False)
    next(stream)
    del stream
    engine.generate(PROMPT, max_new_tokens=1)
    assert engine.core.idle


def test_two_threads_get_their_own_results(slow, ort):
    engine, backend = slow
    want = [ort.generate(prompt, "ar", **FREE).token_ids for prompt in PROMPTS]
    start = threading.Barrier(len(PROMPTS))

    def ask(prompt):
        start.wait()
        return engine.generate(prompt, "ar", **FREE).token_ids

    with ThreadPoolExecutor() as pool:
        assert list(pool.map(ask, PROMPTS)) == want
    assert backend.calls < 2 * (20 + 1), "they share calls"


def test_a_thread_that_is_interrupted_fails_its_neighbours_and_not_the_engine(ort):
    class Interrupted(Wrapped):
        armed = True

        def denoise(self, *args, **more):
            if self.armed:
                raise KeyboardInterrupt
            return super().denoise(*args, **more)

    backend = Interrupted(ort.runner)
    engine = Engine(backend)
    other = engine.stream(PROMPT, "ar", **FREE)
    with pytest.raises(KeyboardInterrupt):
        engine.generate(PROMPT, **FREE)
    with pytest.raises(ttc.BackendError, match="interrupted"):
        list(other)
    backend.armed = False
    assert engine.generate(PROMPT, **FREE).token_ids == ort.generate(PROMPT, **FREE).token_ids


@pytest.mark.parametrize("mode", MODES)
@pytest.mark.parametrize("when", [1, 3, 8])
def test_nan_in_one_row_is_that_rows_end(ort, mode, when):
    """In the state of one row of eight, at some call."""

    class Poisoned(Wrapped):
        calls = 0

        def poison(self, state):
            self.calls += 1
            if self.calls == when:
                assert state.batch == 8
                for name, tensor in state.tensors.items():
                    if is_mamba_state(name):
                        tensor[3] = np.nan

        def context(self, state, *args, **more):
            self.poison(state)
            return super().context(state, *args, **more)

        def denoise(self, state, *args, **more):
            self.poison(state)
            return super().denoise(state, *args, **more)

    requests = [ttc.Request([5, 6, 7, 8 + i], temperature=i % 2, seed=i) for i in range(8)]
    options = {**FREE, "draft_steps": 2}
    results = Engine(Poisoned(ort.runner)).generate(requests, mode, **options)
    assert results[3].finish_reason == "error"
    assert isinstance(results[3].error, ttc.NumericsError)
    assert len(results[3].token_ids) < 20
    for i in (0, 1, 2, 4, 5, 6, 7):
        assert told(results[i]) == told(ort.generate(requests[i], mode, **options)), f"row {i}"


def test_a_row_that_is_too_long_fails_alone(ort):
    requests = [PROMPT, ttc.Request(PROMPT, max_new_tokens=5000), [5] * 4090, PROMPTS[1]]
    results = ort.generate(requests[:2], stop_at_eos=False)
    assert [result.finish_reason for result in results] == ["length", "error"]
    results = ort.generate([PROMPT, [5] * 4090, PROMPTS[1]], **FREE)
    assert [result.finish_reason for result in results] == ["length", "error", "length"]
    assert isinstance(results[1].error, ttc.CapacityError)
    assert "\n" not in str(results[1].error)
    assert results[2].token_ids == ort.generate(PROMPTS[1], **FREE).token_ids
    events = list(ort.stream([PROMPT, [5] * 4090], **FREE))
    (refused,) = [event for event in events if event.row == 1]
    assert refused.finish_reason == "error"
    assert isinstance(refused.result.error, ttc.CapacityError)


def test_a_fork_is_named(ort, monkeypatch):
    engine = Engine(Wrapped(ort.runner))
    stream = engine.stream(PROMPT, **FREE)
    pid = os.getpid()
    monkeypatch.setattr(os, "getpid", lambda: pid + 1)
    for use in (
        lambda: engine.generate(PROMPT),
        lambda: engine.stream(PROMPT),
        lambda: engine.generate(PROMPT, max_new_tokens=0),
        lambda: engine.context_logits(PROMPT),
        lambda: engine.denoiser_logits(PROMPT, [3], None),
        engine.warm_up,
        lambda: next(stream),
    ):
        with pytest.raises(ttc.BackendError, match="fork"):
            use()
    engine.close()
    monkeypatch.undo()
    assert list(stream), "closing it in the child closes nothing here"


@pytest.mark.skipif(not hasattr(os, "fork"), reason="a system without fork")
@pytest.mark.filterwarnings("ignore:.*fork.*:DeprecationWarning")
def test_a_child_is_told(engines):
    engine = engines("tiny_a", "torch")
    engine.generate(PROMPT, max_new_tokens=2)
    reader, writer = os.pipe()
    child = os.fork()
    if not child:
        try:
            engine.generate(PROMPT, max_new_tokens=2)
        except ttc.BackendError as error:
            os.write(writer, str(error).encode())
        finally:
            os._exit(0)
    os.close(writer)
    with os.fdopen(reader) as answer:
        said = answer.read()
    os.waitpid(child, 0)
    assert "before a fork" in said


def test_a_closed_engine_refuses_everything(ort):
    engine = Engine(Wrapped(ort.runner))
    stream = engine.stream(PROMPT, **FREE)
    next(stream)
    engine.close()
    engine.close()
    for use in (
        lambda: engine.generate(PROMPT),
        lambda: engine.generate(PROMPT, max_new_tokens=0),
        lambda: engine.stream(PROMPT),
        lambda: engine.context_logits(PROMPT),
        lambda: engine.denoiser_logits(PROMPT, [3], None),
        engine.warm_up,
    ):
        with pytest.raises(ttc.BackendError, match="the engine is closed"):
            use()
    with pytest.raises(ttc.BackendError, match="closed"):
        list(stream)


@pytest.mark.parametrize(
    "options",
    [
        {"batch": 0},
        {"batch": -1},
        {"batch": "two"},
        {"batch": True},
        {"tokens": 0},
        {"tokens": 10**6},
        {"tokens": 2.5},
        {"block_size": 0},
        {"block_size": 513},
        {"block_size": None},
    ],
)
def test_warming_up_for_nonsense_is_refused(ort, options):
    with pytest.raises(ttc.InputError, match=rf"{next(iter(options))} is .*; valid: an integer from 1 to"):
        ort.warm_up(**options)


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
    ({"nonsense": 1}, "unknown option 'nonsense'; valid: mode, "),
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
    with pytest.raises(ttc.InputError, match="unknown option 'nonsense'"):
        ttc.Request(PROMPT, nonsense=1)
    with pytest.raises(ttc.InputError, match="stop is text, but the bundle has no tokenizer"):
        ort.generate(PROMPT, stop="x")
