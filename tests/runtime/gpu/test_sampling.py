"""AR's tokens are chosen where the logits lie: the same tokens, and no logits on the way to the host."""

import re

import numpy as np
import pytest
from tokenizers import Tokenizer, decoders, models, pre_tokenizers

import ttc
from tests.support.compare import assert_equal
from tests.support.drafts import make_rows
from tests.support.golden import CHECKPOINTS, golden
from tests.support.recorded import tokens_of
from ttc.errors import BackendError
from ttc.model.config import LayerKind
from ttc.plugins.counter_rng import row_key
from ttc.plugins.diffusion_step import DIFFUSION_PREDICT
from ttc.plugins.naive import run_naive
from ttc.plugins.split_predict import SPLIT_PREDICT
from ttc.runtime.engine import Engine
from ttc.runtime.gpu.executor import UNUSED_MASK_ID
from ttc.runtime.interface.sampling import INVALID_TOKEN, LazySamples, RowSampling, SamplingParams

LEVELS = (0, 1, 2)
PROMPT = [5, 6, 7, 8]
RAGGED = [PROMPT, [9, 10], list(range(3, 40)), [11]]
FREE = {"max_new_tokens": 12, "stop_at_eos": False}
GREEDY, SAMPLED = {}, {"temperature": 0.9, "seed": 4}
FILTERED = SAMPLED | {"top_k": 20, "top_p": 0.9}


def tokens(results):
    return [result.token_ids for result in results]


def on_host(results):
    """Notes that say tokens were chosen on the host."""
    return [note for result in results for note in result.stats.notes if "chosen on the host" in note]


def counters(device):
    return np.array([device.launches, device.waits, device.downloaded])


class Seen:
    """The naive ops; `choices`: places open in every choice. `spoil` may write to the logits of a choice."""

    def __init__(self):
        self.choices, self.spoil = [], lambda logits: None

    def __call__(self, op, *inputs, **attributes):
        if op == SPLIT_PREDICT and attributes["mask_id"] == UNUSED_MASK_ID:
            self.choices.append(int((inputs[1] == UNUSED_MASK_ID).sum()))
            self.spoil(inputs[0])
        return run_naive(op, *inputs, **attributes)


@pytest.mark.parametrize("level", LEVELS)
@pytest.mark.parametrize("name", CHECKPOINTS)
def test_golden_tokens(on_device, name, level):
    g, engine = golden(name), on_device(name, level)
    cases = {n: c for n, c in g.cases_of("generate_ar/").items() if g.prompt(c).shape[0] == 1}
    for case_name, case in list(cases.items())[:: max(1, len(cases) // 3)]:
        eos = case["eos_token_id"]
        given = {
            "max_new_tokens": case["max_new_tokens"],
            "eos_token_id": eos,
            "stop_at_eos": eos is not None,
        }
        result = engine.generate(g.prompt(case)[0].tolist(), "ar", **given)
        assert_equal(result.token_ids, tokens_of(g, case_name), case_name)
        assert not on_host([result])


@pytest.mark.parametrize("level", LEVELS)
@pytest.mark.parametrize("choice", [GREEDY, SAMPLED], ids=["greedy", "sampled"])
def test_every_mode_that_writes_what_ar_writes(on_device, engines, level, choice):
    """A ragged batch; on the host the same tokens come out."""
    want = tokens(engines("tiny_a", "torch").generate(RAGGED, "ar", **FREE, **choice))
    engine = on_device("tiny_a", level)
    for mode, options in (("ar", {}), ("prompt-lookup", {}), ("lossless", {"draft_steps": 2})):
        got = engine.generate(RAGGED, mode, **FREE, **choice, **options)
        assert tokens(got) == want, mode
        assert not on_host(got)
    drawn = engine.generate(RAGGED, "mock-ar", **FREE, **choice)
    assert tokens(drawn) == tokens(engines("tiny_a", "torch").generate(RAGGED, "mock-ar", **FREE, **choice))


def test_filters_are_applied_on_the_host_and_said(on_device, engines):
    engine = on_device("tiny_a")
    for mode in ("ar", "lossless"):
        got = engine.generate(RAGGED, mode, **FREE, **FILTERED)
        assert tokens(got) == tokens(engines("tiny_a", "torch").generate(RAGGED, "ar", **FREE, **FILTERED))
    assert len(set(on_host(got))) == 1
    assert "because top_k and top_p need the logits" in on_host(got)[0]


def letters(vocabulary):
    """A tokenizer whose tokens are four control tokens and as many letters as fit."""
    alphabet = sorted(pre_tokenizers.ByteLevel.alphabet())[: vocabulary - 4]
    control = ["<pad>", "<s>", "</s>", "<mask>"]
    made = Tokenizer(models.BPE({token: i for i, token in enumerate(control + alphabet)}, []))
    made.add_special_tokens(control)
    made.pre_tokenizer, made.decoder = pre_tokenizers.ByteLevel(add_prefix_space=False), decoders.ByteLevel()
    return made


def test_grammars_are_followed_on_the_host_and_said(on_device, engines, monkeypatch):
    """Beside a row without one, which writes what it writes alone."""
    backend, reference = on_device("tiny_a").runner, engines("tiny_a", "torch").runner
    tokenizer = letters(backend.config.vocab_size)
    rows = [ttc.Request(PROMPT, regex="[a-z]{3,9}[.!]"), ttc.Request(PROMPT, one_of=["yes", "no"]), RAGGED[2]]
    want = Engine(reference, tokenizer).generate(rows, "ar", **FREE, **SAMPLED)
    assert re.fullmatch("[a-z]{3,9}[.!]", want[0].text)
    for mode in ("ar", "lossless", "prompt-lookup"):
        got = Engine(backend, tokenizer).generate(rows, mode, **FREE, **SAMPLED)
        assert tokens(got) == tokens(want), mode
        assert [row.finish_reason for row in got] == ["stop", "stop", "length"]
    assert "because bans and grammars leave tokens out" in on_host(got)[0]
    reads, real = [], backend._staging.read
    monkeypatch.setattr(backend._staging, "read", lambda array: reads.append(array.shape) or real(array))
    got = Engine(backend, tokenizer).generate(rows, "ar", **FREE, **SAMPLED)
    assert tokens(got) == tokens(want)
    fetched = len(got[0].token_ids) + len(got[1].token_ids)
    assert reads == [(1, 1, backend.config.vocab_size)] * fetched, "the logits of the two rows alone"


def test_an_executor_that_cannot_choose(on_device, fake_device, monkeypatch):
    from ttc.runtime.backends.torch.executor import TorchExecutor

    want = on_device("tiny_a").generate(PROMPT, "ar", **FREE)
    bind = TorchExecutor.bind

    def refuse(self, scope, role, *rest):
        if role == "sample":
            raise BackendError("no kernel of that kind")
        return bind(self, scope, role, *rest)

    monkeypatch.setattr(TorchExecutor, "bind", refuse)
    got = on_device("tiny_a").generate(PROMPT, "ar", **FREE)
    assert got.token_ids == want.token_ids
    (note,) = on_host([got])
    assert note.endswith("because no kernel of that kind")


@pytest.mark.parametrize("level", LEVELS)
@pytest.mark.parametrize("choice", [GREEDY, SAMPLED], ids=["greedy", "sampled"])
def test_an_ar_step_is_one_launch_and_a_few_words(on_device, fake_device, level, choice):
    engine = on_device("tiny_a", level)
    prompts = RAGGED[:2] * 2
    engine.generate(prompts, "ar", **FREE)
    backend, counted = engine.runner, []
    real = backend.sample_next

    def counting(*arguments, **named):
        before = counters(fake_device)
        made = real(*arguments, **named)
        counted.append((counters(fake_device) - before).tolist())
        return made

    backend.sample_next = counting
    engine.generate(prompts, "ar", **FREE, **choice)
    # Prompts of two lengths are two calls, which sample the first token.
    assert len(counted) == 2 + FREE["max_new_tokens"] - 1
    launches, waits, downloaded = (set(values) for values in zip(*counted[2:], strict=True))
    assert waits == {1}
    assert level == 0 or launches == {1}
    # Two tensors of four words, each in a piece of 256 bytes.
    assert downloaded == {512}
    assert len(prompts) * 4 * engine.config.vocab_size > 512, "logits would show"


def test_a_lossless_round_downloads_no_logits(on_device, fake_device):
    engine = on_device("tiny_a")
    options = FREE | {"draft_steps": 1, "block_size": 8}
    engine.generate(PROMPT, "lossless", **options)
    before = counters(fake_device)
    result = engine.generate(PROMPT, "lossless", **options)
    launches, waits, downloaded = counters(fake_device) - before
    rounds = len(result.stats.lossless.draft_records)
    drafting = sum(each.drafted > 0 for each in result.stats.lossless.draft_records)
    # The prompt and clearing both states of every Mamba layer; a round drafts, verifies and advances, or is
    # an AR step.
    cleared = 2 * len(engine.config.layers_of(LayerKind.MAMBA))
    assert launches == 1 + cleared + 3 * drafting + (rounds - drafting)
    assert waits == 1 + 3 * drafting + (rounds - drafting)
    assert drafting > 1
    verified = 8 * 4 * engine.config.vocab_size
    assert downloaded < drafting * verified / 2


def test_a_step_of_mock_ar(on_device, fake_device):
    engine = on_device("tiny_a", 1)
    few, more = FREE | {"max_new_tokens": 4}, FREE | {"max_new_tokens": 9}
    for options in (few, few):
        engine.generate(PROMPT, "mock-ar", **options)
    taken = []
    for options in (few, more):
        before = counters(fake_device)
        engine.generate(PROMPT, "mock-ar", **options)
        taken.append(counters(fake_device) - before)
    # Evaluation, choice, context call; four tensors of a word in pieces of 256 bytes.
    assert ((taken[1] - taken[0]) / 5).tolist() == [3, 3, 1024]


def test_pieces_in_which_no_prompt_ends_leave_their_logits(on_device, fake_device):
    whole = on_device("tiny_a", 1)
    prompts = [list(range(3, 40)), [5, 6], list(range(4, 22))]
    want = whole.generate(prompts, "ar", max_new_tokens=1, stop_at_eos=False, **SAMPLED)
    backend, counts = whole.runner, {"context": [], "sample_next": []}
    for method, own in counts.items():
        real = getattr(backend, method)

        def counting(*arguments, real=real, own=own, **named):
            before = counters(fake_device)
            made = real(*arguments, **named)
            own.append((counters(fake_device) - before).tolist()[-2:])
            return made

        setattr(backend, method, counting)
    engine = Engine(backend, prefill_chunk=8)
    got = engine.generate(prompts, "ar", max_new_tokens=1, stop_at_eos=False, **SAMPLED)
    assert tokens(got) == tokens(want)
    # 37, 2 and 18 tokens in pieces of 8, pieces of one length in one call: no prompt ends in 4 calls.
    # A wait and no words, or two tensors of a few words in pieces of 256 bytes.
    assert counts["context"] == [[1, 0]] * 4
    assert counts["sample_next"] == [[1, 512]] * 3


@pytest.mark.parametrize("value", [np.nan, np.inf])
def test_logits_that_are_no_numbers(on_device, value):
    """The row's error at the token where AR would have looked, and of no concern where nobody looks."""
    seen = Seen()
    engine = on_device("tiny_a", 1, _run_op=seen)
    text = engine.generate(PROMPT, "ar", **FREE).token_ids

    def spoil(logits):
        if logits.shape[1] > 1:  # a verification, not the prompt's next token
            logits[:, 1, 7] = value

    seen.spoil = spoil
    core, (row,), _ = make_rows(engine.runner, [PROMPT], [text], [[(4, 4)] * 2])
    core.tick()
    core.tick()
    assert isinstance(row.error, ttc.NumericsError)
    assert re.search(r"NaN.* for new token 2", str(row.error))
    core, (row,), (drafter,) = make_rows(engine.runner, [PROMPT], [text], [[(4, 0)] * 2])
    core.tick()
    core.tick()
    assert (drafter.accepted, row.tokens) == ([0], list(text[:2])), "nobody looks after a disagreement"
    seen.spoil = lambda logits: logits.fill_(value)
    with pytest.raises(ttc.NumericsError, match=r"NaN.* for new token 0"):
        engine.generate(PROMPT, "ar", **FREE)
    seen.spoil = lambda logits: None
    assert engine.generate(PROMPT, "ar", **FREE).token_ids == text


@pytest.mark.parametrize("temperature", [0.0, 0.3, 1.0, 2.5])
def test_the_op_chooses_what_the_host_chooses(temperature):
    """The mask id like any other token, logits far below the others, ties, a NaN row that harms no other."""
    import torch

    draw = np.random.default_rng(5)
    B, R, V, mask_id = 3, 5, 400, 3
    logits = (draw.standard_normal((B, R, V)) * 3).astype(np.float32)
    logits[0, 1, mask_id] = 60.0
    logits[0, 2, ::2] = -1e30  # −inf is refused on the host, and not seen by the op
    logits[1, 0] = 1.0
    logits[1, 3, 17] = np.nan
    keys = np.array([row_key(11, row) for row in range(B)], np.int64)
    position = np.array([0, 7, 2**20], np.int32)
    rows = [RowSampling(temperature, None, None, int(keys[i]), int(position[i])) for i in range(B)]
    host = LazySamples(logits, SamplingParams(tuple(rows)))
    want = np.stack([host.at(np.arange(B), place) for place in range(R)], 1)
    inputs = [np.full((B, R), UNUSED_MASK_ID, np.int32), np.full(B, temperature, np.float32), keys, position]
    tensors = [torch.from_numpy(array) for array in (logits, *inputs, np.zeros(B, np.int32))]
    predicted, confidence = (
        t.numpy() for t in run_naive(DIFFUSION_PREDICT, *tensors, mask_id=UNUSED_MASK_ID)
    )
    assert_equal(np.where(np.isnan(confidence), INVALID_TOKEN, predicted), want, "tokens")
    assert want[0, 1] == mask_id
    assert want[1].tolist().count(INVALID_TOKEN) == 1
    if temperature == 0:
        assert want[1, 0] == 0, "the lowest of equals"
