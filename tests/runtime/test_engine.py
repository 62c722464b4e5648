"""The engine as a user meets it: options, prompts, capacity, events, threads, closing."""

import dataclasses
import inspect
import threading
import time

import numpy as np
import pytest

import ttc
from tests.support.golden import golden
from tests.support.recording import Wrapped
from ttc.runtime.engine import Engine

PROMPT = golden("tiny_a").vectors["prompt/p12"][0].tolist()


@pytest.fixture
def engine(engines, backend):
    return engines("tiny_a", backend)


@pytest.fixture
def ort(engines):
    return engines("tiny_a", "onnxruntime")


@pytest.mark.parametrize(
    ("options", "says"),
    [
        ({"mode": "fast"}, "unknown mode 'fast'; valid: diffusion, ar, mock-ar, lossless"),
        ({"mode": "lossless", "draft_steps": 0}, "draft_steps is 0; valid: an integer from 1 to 16"),
        (
            {"mode": "lossless", "draft_steps": 5, "steps": 4},
            "draft_steps is 5; valid: an integer from 1 to 4",
        ),
        ({"mode": "lossless", "draft_steps": "many"}, "draft_steps is 'many'; valid: 'auto', or a number"),
        ({"mode": "lossless", "draft_steps": None}, "draft_steps is None; valid: an integer from 1 to 16"),
        ({"max_new_tokens": -1}, "max_new_tokens is -1; valid: an integer from 0"),
        ({"max_new_tokens": 2.5}, "max_new_tokens is 2.5"),
        ({"max_new_tokens": True}, "max_new_tokens is True"),
        ({"block_size": 0}, "block_size is 0; valid: an integer from 1 to 512"),
        (
            {"block_size": 513},
            "block_size is 513; valid: an integer from 1 to 512 (a longer block's scan is not exact)",
        ),
        ({"steps": 0}, "steps is 0; valid: an integer from 1"),
        ({"threshold": 1.5}, "threshold is 1.5; valid: 0 to 1"),
        ({"threshold": -0.1}, "threshold is -0.1; valid: 0 to 1"),
        ({"threshold": float("nan")}, "threshold is nan"),
        ({"temperature": -1.0}, "temperature is -1.0; valid: 0 to"),
        ({"temperature": float("inf")}, "temperature is inf"),
        ({"temperature": 1e-5}, "temperature is 1e-05; valid: 0 (greedy), or 0.001 to"),
        ({"eos_token_id": 2.5}, "eos_token_id is 2.5"),
        ({"top_k": 0, "mode": "ar", "temperature": 1.0}, "top_k is 0"),
        ({"top_p": 2.0, "mode": "ar", "temperature": 1.0}, "top_p is 2.0"),
        ({"top_k": 5}, "top_k and top_p do not apply to mode 'diffusion'"),
        ({"top_p": 0.5}, "top_k and top_p do not apply to mode 'diffusion'"),
        ({"seed": -1, "temperature": 1.0}, "seed is -1"),
        ({"eos_token_id": 128}, "eos_token_id is 128; valid: an integer from 0 to 127"),
        ({"eos_token_id": [2, -4]}, "eos_token_id is -4"),
    ],
)
def test_nonsense_options_are_refused(ort, options, says):
    with pytest.raises(ttc.InputError) as error:
        ort.generate(PROMPT, **options)
    assert says in str(error.value)
    assert "\n" not in str(error.value)


def test_options_as_one_value_or_by_name(ort):
    options = ttc.GenerationOptions(mode="ar", max_new_tokens=9, stop_at_eos=False)
    want = ort.generate(PROMPT, mode="ar", max_new_tokens=9, stop_at_eos=False)
    assert ort.generate(PROMPT, options).token_ids == want.token_ids
    assert ort.generate(PROMPT, "ar", max_new_tokens=9, stop_at_eos=False).token_ids == want.token_ids
    assert ort.generate(PROMPT, options, max_new_tokens=4).token_ids == want.token_ids[:4]
    assert [event.token_ids for event in ort.stream(PROMPT, options)] == [
        (token,) for token in want.token_ids
    ]
    for given in ({"no_such": 1}, {"options": options, "no_such": 1}, {"options": "ar", "mode": "ar"}):
        with pytest.raises(TypeError):
            ort.generate(PROMPT, **given)


def test_every_option_is_explained():
    text = inspect.cleandoc(ttc.GenerationOptions.__doc__)
    for field in dataclasses.fields(ttc.GenerationOptions):
        assert f"    {field.name}: " in text, field.name


@pytest.mark.parametrize(
    ("prompt", "says"),
    [
        ([], "the prompt is empty"),
        ([[1, 2], []], "prompt 1 of the batch is empty"),
        ([1, 128], "token id 128 at place 1 is outside the vocabulary; valid: 0 to 127"),
        ([1, -1], "token id -1 at place 1"),
        ([1, 2.0], "element 1 is 2.0; valid: integer token ids"),
        ([[1], 7], "prompt 1 of the batch is int"),
        ("text", "the bundle has no tokenizer.json"),
        ([True], "element 0 is True"),
        (5, "the prompt is int"),
        (None, "the prompt is NoneType"),
        (b"abc", "the prompt is bytes"),
        ({1: 2}, "the prompt is dict"),
        ({1, 2}, "the prompt is set"),
        (np.array(3), "the prompt is a single number"),
        (np.array([1.0, 2.0]), "prompt 0 of the batch is float64"),
    ],
)
def test_bad_prompts_are_refused(ort, prompt, says):
    with pytest.raises(ttc.InputError) as error:
        ort.generate(prompt)
    assert says in str(error.value)


def test_stream_returns_what_generate_returns(ort):
    """And its seconds do not count what the caller does between events."""
    stream = ort.stream([PROMPT, PROMPT[:4]], max_new_tokens=20, stop_at_eos=False)
    start = time.perf_counter()
    while True:
        try:
            next(stream)
            time.sleep(0.02)
        except StopIteration as end:
            results = end.value
            break
    elapsed = time.perf_counter() - start
    want = ort.generate([PROMPT, PROMPT[:4]], max_new_tokens=20, stop_at_eos=False)
    assert [result.token_ids for result in results] == [result.token_ids for result in want]
    assert results[0].stats.seconds < elapsed


def test_text_prompts_are_checked_too(engines):
    """The tokenizer would make a bos of nothing; nothing is refused all the same."""
    engine = engines("miniature", "onnxruntime", None)
    with pytest.raises(ttc.InputError, match="prompt is empty"):
        engine.generate("")
    with pytest.raises(ttc.InputError, match="prompt 1 of the batch is empty"):
        engine.generate(["a", ""])
    with pytest.raises(ttc.InputError, match="not valid text"):
        engine.generate("\ud800")
    assert engine.generate("7", max_new_tokens=3).stats.prompt_tokens == len(engine.tokenizer.encode("7").ids)


def test_logits_of_nonsense_are_refused(ort):
    with pytest.raises(ttc.InputError, match="ids is NoneType"):
        ort.context_logits(None)
    with pytest.raises(ttc.InputError, match="t is 'x'; valid: 0 to 1"):
        ort.denoiser_logits(PROMPT, [3], "x")
    with pytest.raises(ttc.InputError, match="block_ids has 513 tokens; valid: up to 512"):
        ort.denoiser_logits(PROMPT, [3] * 513, 1.0)


def test_unknown_option_of_stream_is_a_type_error_at_the_call(ort):
    with pytest.raises(TypeError, match="nonsense"):
        ort.stream(PROMPT, nonsense=1)
    with pytest.raises(ttc.InputError, match="threshold"):
        ort.stream(PROMPT, threshold=7)


def test_capacity(bundles, ort):
    with pytest.raises(ttc.CapacityError, match="need 5012 places, the capacity is 4096"):
        ort.generate(PROMPT, max_new_tokens=5000)
    with ttc.load(bundles("tiny_a"), capacity=20) as small:
        assert small.generate(PROMPT, max_new_tokens=8, stop_at_eos=False).token_ids == (
            ort.generate(PROMPT, max_new_tokens=8, stop_at_eos=False).token_ids
        )
        with pytest.raises(ttc.CapacityError, match="12 prompt tokens and max_new_tokens 9 need 21 places"):
            small.generate(PROMPT, max_new_tokens=9)
        with pytest.raises(ttc.CapacityError):
            small.context_logits(list(range(21)))
    for capacity in (0, -3, 4097, True, 10.5, "10"):
        with pytest.raises(ttc.InputError, match="capacity is"):
            ttc.load(bundles("tiny_a"), capacity=capacity)


def test_load_refuses_what_it_cannot_do(bundles, tmp_path):
    with pytest.raises(ttc.InputError, match="unknown backend 'fast'; valid: onnxruntime, torch"):
        ttc.load(bundles("tiny_a"), backend="fast")
    with pytest.raises(ttc.InputError, match="unknown device 'tpu'; valid: cpu, cuda, cuda:N"):
        ttc.load(bundles("tiny_a"), device="tpu")
    with pytest.raises(ttc.InputError, match="unknown device 3"):
        ttc.load(bundles("tiny_a"), device=3)
    with pytest.raises(ttc.InputError, match="runs no engines"):
        ttc.load(bundles("tiny_a"), engines=tmp_path)
    with pytest.raises(ttc.BundleError, match="no such folder"):
        ttc.load(tmp_path / "nothing")


@pytest.mark.parametrize("backend_name", ["onnxruntime", "torch"])
def test_cuda_asked_for_where_there_is_none(bundles, backend_name):
    import onnxruntime
    import torch

    if torch.cuda.is_available() or "CUDAExecutionProvider" in onnxruntime.get_available_providers():
        pytest.skip("there is a CUDA device here")
    with pytest.raises(ttc.BackendError, match=r"device 'cuda'.*use device 'cpu'"):
        ttc.load(bundles("tiny_a"), backend=backend_name, device="cuda")


@pytest.mark.parametrize("mode", ["diffusion", "ar", "mock-ar"])
@pytest.mark.parametrize("count", [0, 1, 15, 16, 17, 33])
def test_any_number_of_new_tokens(engine, mode, count):
    """The last block is cut; a shorter run is the beginning of a longer one."""
    longest = engine.generate(PROMPT, mode, max_new_tokens=48, stop_at_eos=False)
    result = engine.generate(PROMPT, mode, max_new_tokens=count, stop_at_eos=False)
    assert result.token_ids == longest.token_ids[:count]
    assert result.finish_reason == "length"
    assert result.stats.prompt_tokens == 12


@pytest.mark.parametrize("mode", ["diffusion", "ar", "mock-ar"])
def test_prompt_of_one_token(engine, mode):
    result = engine.generate([5], mode, max_new_tokens=5, stop_at_eos=False)
    assert len(result.token_ids) == 5


@pytest.mark.parametrize("mode", ["diffusion", "ar", "mock-ar"])
def test_ragged_batch_is_its_rows_alone(engine, mode):
    """Prompts of 1 to 70 tokens, some ending early by eos: no row knows of the others."""
    v = golden("tiny_a").vectors
    prompts = [v[f"prompt/{name}"][0].tolist() for name in ("p70", "p01", "p12", "p05", "p33", "p02")]
    free = [engine.generate(prompt, mode, max_new_tokens=40, stop_at_eos=False) for prompt in prompts]
    # An eos that some rows meet early and, where there is one, a row never meets.
    common = max(free[0].token_ids, key=lambda token: -abs(3 - sum(token in r.token_ids for r in free)))
    options = {"max_new_tokens": 40, "eos_token_id": common}
    alone = [engine.generate(prompt, mode, **options) for prompt in prompts]
    assert {result.finish_reason for result in alone} == {"eos", "length"}
    together = engine.generate(prompts, mode, **options)
    for row, (a, b) in enumerate(zip(together, alone, strict=True)):
        assert a.token_ids == b.token_ids, f"row {row}"
        assert a.finish_reason == b.finish_reason
        assert a.stats.nfe_per_block == b.stats.nfe_per_block


def test_prefill_in_chunks_is_prefill_at_once(engines):
    """Chunks of any size give the same tokens: the state is what is carried over."""
    inner = engines("tiny_a", "onnxruntime").runner
    prompt = golden("tiny_a").vectors["prompt/p70"][0].tolist()
    runs = []
    for chunk in (1, 3, 16, 70, 128):
        engine = Engine(Wrapped(inner), capacity=256, prefill_chunk=chunk)
        result = engine.generate(prompt, max_new_tokens=32, stop_at_eos=False)
        runs.append((result.token_ids, result.stats.nfe_per_block))
        assert result.stats.context_calls == -(-70 // chunk) + 1
    assert len(set(runs)) == 1


def test_eos_ends_a_row_and_is_kept(engine):
    free = engine.generate(PROMPT, max_new_tokens=48, stop_at_eos=False)
    eos = free.token_ids[20]
    first = free.token_ids.index(eos)
    stopped = engine.generate(PROMPT, max_new_tokens=48, eos_token_id=eos)
    assert stopped.token_ids == free.token_ids[: first + 1]
    assert stopped.finish_reason == "eos"


def test_events_tell_the_whole_story(engine):
    """Step events show a block from nearly all masked to none; committed events join to the result."""
    options = {"max_new_tokens": 40, "threshold": 0.8, "stop_at_eos": False}
    prompts = [PROMPT, PROMPT[:5]]
    results = engine.generate(prompts, **options)
    events = list(engine.stream(prompts, **options))
    for row, result in enumerate(results):
        own = [event for event in events if event.row == row]
        committed = [event for event in own if event.committed]
        assert sum((event.token_ids for event in committed), ()) == result.token_ids
        assert [event.step for event in committed] == list(result.stats.nfe_per_block)
        assert all(event.text is None and not any(event.masked) for event in committed)
        steps = [event for event in own if not event.committed]
        assert len(steps) == result.stats.nfe
        for event in steps:
            assert len(event.token_ids) == len(event.masked) == len(event.confidence) == 16
            assert [token == 3 for token in event.token_ids] == list(event.masked)
    assert [event.block_index for event in events if event.row == 0] == sorted(
        event.block_index for event in events if event.row == 0
    )


@pytest.mark.parametrize("mode", ["ar", "mock-ar"])
def test_autoregressive_events_are_blocks_of_one(engine, mode):
    events = list(engine.stream(PROMPT, mode=mode, max_new_tokens=5, stop_at_eos=False))
    assert [event.block_index for event in events] == [0, 1, 2, 3, 4]
    assert all(event.committed and len(event.token_ids) == 1 for event in events)


def test_threads(bundles, ort):
    want = ort.generate(PROMPT, max_new_tokens=16, stop_at_eos=False)
    with ttc.load(bundles("tiny_a"), threads=2) as two:
        assert two.generate(PROMPT, max_new_tokens=16, stop_at_eos=False).token_ids == want.token_ids
    for threads in (0, True, 5000):
        with pytest.raises(ttc.InputError, match="threads is"):
            ttc.load(bundles("tiny_a"), threads=threads)
    with pytest.raises(ttc.InputError, match=r"torch\.set_num_threads"):
        ttc.load(bundles("tiny_a"), "torch", threads=1)


def test_statistics(ort):
    result = ort.generate(PROMPT, max_new_tokens=32, stop_at_eos=False)
    stats = result.stats
    assert (stats.mode, stats.backend, stats.seed, stats.notes) == ("diffusion", "onnxruntime", None, ())
    assert stats.nfe == sum(stats.nfe_per_block)
    assert stats.tokens_per_nfe == 32 / stats.nfe
    assert stats.context_calls == 2, "the prompt, and the first block; nothing reads the last"
    assert 0 < stats.backend_seconds <= stats.seconds
    assert stats.tokens_per_second == pytest.approx(32 / stats.seconds)
    ar = ort.generate(PROMPT, mode="ar", max_new_tokens=8, stop_at_eos=False).stats
    assert (ar.nfe, ar.nfe_per_block, ar.tokens_per_nfe, ar.context_calls) == (0, (), None, 8)


def test_filters_without_a_temperature_are_noted(ort):
    greedy = ort.generate(PROMPT, "ar", max_new_tokens=8)
    result = ort.generate(PROMPT, "ar", max_new_tokens=8, top_k=5)
    assert result.token_ids == greedy.token_ids
    assert "top_k and top_p have no effect at temperature 0" in result.stats.notes[0]


def test_other_block_sizes_are_noted(ort):
    result = ort.generate(PROMPT, max_new_tokens=8, block_size=8)
    assert result.stats.notes == ("block_size is 8: the model was trained on 16, others lose quality",)


def test_many_threads_one_engine(engine):
    """Eight threads, different prompts and modes, interleaved: everyone gets what they get alone."""
    jobs = [(PROMPT[: 3 + i], mode) for i in range(4) for mode in ("diffusion", "ar")]
    want = [engine.generate(p, m, max_new_tokens=24, stop_at_eos=False).token_ids for p, m in jobs]
    got = [None] * len(jobs)
    start = threading.Barrier(len(jobs))

    def work(i):
        start.wait()
        got[i] = engine.generate(*jobs[i], max_new_tokens=24, stop_at_eos=False).token_ids

    threads = [threading.Thread(target=work, args=(i,)) for i in range(len(jobs))]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert got == want


@pytest.mark.parametrize("backend_name", ["onnxruntime", "torch"])
def test_closed_engines_refuse(bundles, backend_name):
    with ttc.load(bundles("tiny_a"), backend_name) as engine:
        engine.generate(PROMPT, max_new_tokens=1)
    engine.close()
    with pytest.raises(ttc.BackendError, match="the engine is closed"):
        engine.generate(PROMPT, max_new_tokens=1)


@pytest.mark.parametrize("mode", ["diffusion", "ar", "mock-ar", "lossless"])
def test_nan_is_reported_not_decoded(engines, mode):
    """NaN anywhere in the state reaches the logits, and the engine says so."""

    class Poisoned(Wrapped):
        def context(self, state, input_ids, commit_len, logit_positions, save=False, rows=None):
            call = super().context(state, input_ids, commit_len, logit_positions, save, rows)
            for tensor in state.tensors.values():
                tensor.fill(np.nan)
            nan = np.full_like(self.inner.fetch(call.logits), np.nan)
            return dataclasses.replace(call, logits=nan)

    engine = Engine(Poisoned(engines("tiny_a", "onnxruntime").runner))
    with pytest.raises(ttc.NumericsError, match="NaN"):
        engine.generate(PROMPT, mode, max_new_tokens=8)


def test_numpy_prompts_and_options(ort):
    plain = ort.generate(PROMPT, max_new_tokens=8, stop_at_eos=False)
    array = ort.generate(np.array(PROMPT), max_new_tokens=np.int64(8), stop_at_eos=False)
    assert array.token_ids == plain.token_ids
    batch = ort.generate(np.array([PROMPT, PROMPT]), max_new_tokens=8, stop_at_eos=False)
    assert [result.token_ids for result in batch] == [plain.token_ids] * 2
