"""Structured output: texts fit what was asked for, in every mode that has it, beside rows without it."""

import asyncio
import builtins
import json
import re
import threading
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from tokenizers import Tokenizer, models

import ttc
from tests.support.chains import Chain
from tests.support.golden import golden
from ttc.errors import BundleError, InputError, MissingDependencyError
from ttc.model.config import ModelConfig
from ttc.runtime.decoding.core import Core
from ttc.runtime.engine import Engine

MINIATURE = Path(ttc.__file__).parent / "miniature"
TOKENIZER = Tokenizer.from_file(str(MINIATURE / "tokenizer.json"))
CONFIG = ModelConfig.from_dict(
    golden("tiny_a").config.to_dict() | {"vocab_size": 384, "eos_token_ids": [2], "mask_token_id": 3}
)
PERSON = {
    "type": "object",
    "properties": {
        "name": {"type": "string", "maxLength": 6},
        "age": {"type": "integer", "minimum": 0, "maximum": 120},
        "tags": {"type": "array", "items": {"enum": ["a", "bc"]}, "maxItems": 3},
    },
    "required": ["name", "age", "tags"],
    "additionalProperties": False,
}
GRAMMARS = {
    "none": {},
    "schema": {"json_schema": PERSON},
    "regex": {"regex": r"[a-z]{2,5}( [a-z]{1,4}){1,6}\."},
    "wide": {"regex": r"(?s:.{20,40})"},
    "texts": {"one_of": ["yes", "yes, sir", "no", "größer", 'a "b" \\ c\n', "😀"]},
}
MODES = ("ar", "lossless", "prompt-lookup")


def fits(name, text):
    """Whether a text that has ended is one of the grammar, asked without llguidance."""
    if name == "schema":
        value = json.loads(text)
        return (
            list(value) == ["name", "age", "tags"]
            and len(value["name"]) <= 6
            and 0 <= value["age"] <= 120
            and len(value["tags"]) <= 3
            and set(value["tags"]) <= {"a", "bc"}
        )
    if name == "texts":
        return text in GRAMMARS[name]["one_of"]
    return name == "none" or re.fullmatch(GRAMMARS[name]["regex"], text) is not None


def chain(seed, quality=0.7, peak=2.0):
    """An engine over random weights that knows the miniature's tokens; many draw eos and control tokens."""
    rng = np.random.default_rng(seed)
    logits = (rng.standard_normal((384, 384)) * peak).astype(np.float32)
    return Engine(Chain(CONFIG, logits, quality, seed), TOKENIZER)


@pytest.fixture(scope="module")
def engine():
    return chain(1)


def outcome(result):
    return result.token_ids, result.finish_reason, result.text


@settings(max_examples=12)
@given(
    seed=st.integers(0, 2**32 - 1),
    names=st.lists(st.sampled_from(sorted(GRAMMARS)), min_size=1, max_size=4),
    options=st.sampled_from(
        [{}, {"temperature": 1.0}, {"temperature": 2.0, "top_p": 0.9}, {"temperature": 0.8, "top_k": 5}]
    ),
    most=st.sampled_from([3, 40, 120]),
    steps=st.integers(1, 3),
    min_tokens=st.sampled_from([0, 3]),
)
def test_every_mode_writes_what_ar_writes(seed, names, options, most, steps, min_tokens):
    """Mixed rows in one batch; each is also what it is alone."""
    engine = chain(seed % 7, quality=(seed % 11) / 10)
    rng = np.random.default_rng(seed)
    rows = [
        ttc.Request(
            rng.integers(4, 375, rng.integers(1, 20)).tolist(), seed=i + seed % 1000, **GRAMMARS[name]
        )
        for i, name in enumerate(names)
    ]
    given = {"max_new_tokens": most, "min_tokens": min_tokens} | options
    want = engine.generate(rows, "ar", **given)
    for name, row, result in zip(names, rows, want, strict=True):
        assert result.finish_reason in ("eos", "stop", "length")
        if result.finish_reason != "length":
            assert fits(name, result.text)
        assert outcome(engine.generate([row], "ar", **given)[0]) == outcome(result)
    for mode in MODES[1:]:
        more = {"draft_steps": steps} if mode == "lossless" else {}
        assert [*map(outcome, engine.generate(rows, mode, **given, **more))] == [*map(outcome, want)], mode


def test_drafts_are_cut_where_the_grammar_forbids_them_and_accepted_elsewhere():
    engine = chain(3, quality=1.0)
    prompt = [40, 50, 60]
    widths = engine.runner.widths
    result = engine.generate(prompt, "lossless", draft_steps=1, max_new_tokens=60, **GRAMMARS["wide"])
    rounds = result.stats.lossless.draft_records
    assert sum(each.accepted for each in rounds) >= 3, "some drafts were right"
    verified = widths[1:]
    assert any(width < each.drafted + 1 for width, each in zip(verified, rounds, strict=True))
    assert outcome(result) == outcome(engine.generate(prompt, "ar", max_new_tokens=60, **GRAMMARS["wide"]))


@pytest.mark.parametrize("mode", MODES)
def test_rows_come_and_go(engine, mode):
    """A row that joins while others run, and one that leaves, change nothing."""
    names = sorted(GRAMMARS)
    given = {"temperature": 1.0, "max_new_tokens": 60}
    rows = [ttc.Request([20 + i, 30], seed=i, **GRAMMARS[name]) for i, name in enumerate(names)]
    alone = [engine.generate([row], mode, **given)[0] for row in rows]
    streams = []
    for row in rows:
        streams.append(engine.stream([row], mode, **given))
        next(streams[-1])
    gone = engine.stream([1, 2], mode, json_schema={"type": "object"}, max_new_tokens=60, temperature=1.0)
    next(gone)
    gone.close()
    for stream, want in zip(streams, alone, strict=True):
        *_, last = [next(stream), *stream] if want.token_ids[1:] else [*stream] or [None]
        if last is not None:
            assert outcome(last.result) == outcome(want)


def test_a_text_ends_with_its_grammar(engine):
    """At once where nothing may follow, at an eos where something may, and never before."""
    for mode in MODES:
        ended = engine.generate([5, 6], mode, one_of=["no way"])
        assert (ended.text, ended.finish_reason) == ("no way", "stop")
        assert 2 not in ended.token_ids
    open_end = engine.generate([5, 6], "ar", regex="a+", temperature=50.0, seed=1, max_new_tokens=300)
    assert open_end.finish_reason == "eos"
    assert re.fullmatch("a+", open_end.text)
    assert engine.generate([5, 6], "ar", regex="a+", stop_at_eos=False, max_new_tokens=30).text == "a" * 30
    cut = engine.generate([5, 6], "ar", json_schema=PERSON, max_new_tokens=5)
    assert (cut.finish_reason, len(cut.token_ids)) == ("length", 5)


@pytest.mark.parametrize("mode", MODES)
def test_the_other_options_go_with_it(engine, mode):
    stopped = engine.generate([5, 6], mode, one_of=["one, two, three"], stop=", t")
    assert (stopped.text, stopped.finish_reason) == ("one", "stop")
    # The grammar's end comes before `min_tokens`: there is nothing left to write.
    assert engine.generate([5, 6], mode, one_of=["no"], min_tokens=20).text == "no"
    short = engine.generate([5, 6], mode, regex="a+", min_tokens=9, temperature=50.0, seed=2)
    assert len(short.token_ids) >= 9
    several = engine.generate([5, 6], mode, n=3, temperature=3.0, seed=4, **GRAMMARS["schema"])
    assert len({result.token_ids for result in several}) > 1
    one = engine.generate([5, 6], mode, choice=2, temperature=3.0, seed=4, **GRAMMARS["schema"])
    assert outcome(one) == outcome(several[2])
    comma = TOKENIZER.encode(",", add_special_tokens=False).ids
    assert engine.generate([5, 6], mode, one_of=["a,b", "ab"], banned_token_ids=comma).text == "ab"
    with pytest.raises(InputError, match="nothing may be written as new token 1: its grammar allows none"):
        engine.generate([5, 6], mode, one_of=["a,b"], banned_token_ids=comma)
    own = TOKENIZER.encode(".", add_special_tokens=False).ids[0]
    early = engine.generate([5, 6], mode, regex=r"[a-z]+\.?", eos_token_id=own, temperature=9.0, seed=3)
    assert re.fullmatch("[a-z]+", early.text)


def test_logprobs_are_the_models_own(engine):
    result = engine.generate([5, 6], "ar", one_of=["no way"], logprobs=True)
    logits = engine.runner.logits[[6, *result.token_ids[:-1]]].astype(np.float64)
    want = logits - np.log(np.exp(logits).sum(-1, keepdims=True))
    np.testing.assert_allclose(result.logprobs, want[np.arange(len(want)), result.token_ids], atol=1e-9)
    drafted = engine.generate([5, 6], "lossless", one_of=["no way"], logprobs=True, draft_steps=1)
    np.testing.assert_allclose(drafted.logprobs, result.logprobs)


def test_streams_and_asyncio(engine):
    events = list(
        engine.stream([5, 6], "lossless", draft_steps=1, temperature=1.0, seed=1, json_schema=PERSON)
    )
    text = "".join(event.text for event in events if event.text)
    assert fits("schema", text)
    assert events[-1].result.text == text

    async def together():
        shared = ttc.AsyncEngine(chain(1))
        try:
            calls = [
                shared.generate([5, 6], mode, temperature=1.0, seed=1, json_schema=PERSON) for mode in MODES
            ]
            results = await asyncio.gather(*calls)
            assert {result.text for result in results} == {text}
            assert [update.text async for update in shared.stream([5], "ar", one_of=["x"])] == ["x"]
            with pytest.raises(InputError, match="regex cannot be followed"):
                await shared.generate([5], "ar", regex="(")
        finally:
            await shared.close()

    asyncio.run(together())


def test_many_threads(engine):
    """They share built grammars, and no row's place in one."""
    jobs = [
        {"temperature": 1.0, "seed": seed, "max_new_tokens": 40, **GRAMMARS[name]}
        for name in GRAMMARS
        for seed in range(3)
    ]
    alone = [outcome(engine.generate([5, 6], "lossless", draft_steps=1, **job)) for job in jobs]
    fresh = Engine(engine.runner, TOKENIZER)
    with ThreadPoolExecutor(6) as pool:
        calls = [pool.submit(fresh.generate, [5, 6], "lossless", draft_steps=1, **job) for job in jobs]
        assert [outcome(call.result()) for call in calls] == alone


@pytest.mark.parametrize("named", ["call", "options", "request"])
def test_asyncio_builds_grammars_beside_its_loop(named, monkeypatch):
    readers, read = [], Engine.read
    monkeypatch.setattr(
        Engine, "read", lambda *given, **more: readers.append(threading.get_ident()) or read(*given, **more)
    )
    prompt = ttc.Request([5, 6], regex="a") if named == "request" else [5, 6]
    options = ttc.GenerationOptions(mode="ar", regex="a" if named == "options" else None)
    given = {"regex": "a"} if named == "call" else {}

    async def ask():
        shared = ttc.AsyncEngine(chain(1))
        try:
            assert (await shared.generate(prompt, options, **given)).text == "a"
            await shared.generate([5, 6], "ar", max_new_tokens=1)
        finally:
            await shared.close()

    asyncio.run(ask())
    assert [reader == threading.get_ident() for reader in readers] == [False, True]


def test_a_grammar_that_gets_too_hard_ends_its_own_row(engine, monkeypatch):
    """The rows beside it go on."""
    import ttc.runtime.structured as structured

    monkeypatch.setitem(structured._LIMITS, "step_max_items", 500)
    hard = {"type": "object", "properties": {f"key{i}": {"type": "null"} for i in range(200)}}
    rows = [ttc.Request([5, 6], json_schema=hard), ttc.Request([5, 6], one_of=["fine"])]
    for mode in MODES:
        failed, fine = Engine(engine.runner, TOKENIZER).generate(rows, mode, max_new_tokens=40)
        assert (failed.finish_reason, fine.text) == ("error", "fine")
        assert "its grammar cannot be followed further" in str(failed.error)


@pytest.mark.parametrize("mode", ["diffusion", "mock-ar"])
def test_modes_that_cannot(engine, mode):
    with pytest.raises(InputError, match=f"regex does not apply to mode '{mode}'; valid: ar, lossless"):
        engine.generate([5, 6], mode, regex="a")


BAD = [
    ({"json_schema": {"type": "object"}, "regex": "a"}, "json_schema and regex are given"),
    ({"json_schema": 7}, "json_schema is 7; valid"),
    ({"json_schema": "{"}, "json_schema: not valid JSON"),
    ({"json_schema": "[1]"}, "json_schema is '\\[1\\]'; valid: a JSON object"),
    ({"json_schema": '{"type": "a", "type": "b"}'}, "stands there twice"),
    ({"json_schema": {"a": {1}}}, "json_schema is no JSON"),
    ({"json_schema": {"a": float("nan")}}, "json_schema is no JSON"),
    ({"json_schema": {"type": "object", "description": "x" * 40_000}}, "json_schema has 40.* up to 32768"),
    ({"json_schema": "[" * 30_000}, "nested too deeply|not valid JSON"),
    ({"json_schema": {"type": "string", "format": "f" * 500}}, "Unknown format: ffff"),
    ({"json_schema": {"not": {"type": "string"}}}, "Unimplemented keys"),
    ({"json_schema": {"$ref": "#"}}, "json_schema cannot be followed"),
    ({"json_schema": {"$ref": "http://example.com/x.json"}}, "json_schema cannot be followed"),
    ({"json_schema": {"type": "string", "pattern": "(?=a)"}}, "json_schema cannot be followed"),
    ({"regex": ""}, "regex is ''; valid"),
    ({"regex": "(" * 500 + "a"}, "regex cannot be followed: "),
    ({"regex": "(?=a)b"}, "regex cannot be followed: look-around"),
    ({"regex": "a" * 5000}, "regex has 5000 bytes; valid: up to 4096"),
    ({"regex": "\ud800"}, "regex is not valid text"),
    ({"regex": "(a{1000}){1000}"}, "cannot be followed"),
    ({"one_of": []}, "one_of is \\[\\]; valid"),
    ({"one_of": "yes"}, "one_of is 'yes'; valid"),
    ({"one_of": ["a", ""]}, "none of them empty"),
    ({"one_of": ["a"] * 1025}, "one_of has 1025 texts"),
    ({"one_of": ["a" * 40_000]}, "one_of has 40000 bytes"),
    ({"choice": ["yes", "no"]}, "for one of several texts: one_of"),
]


@pytest.mark.parametrize(("options", "said"), BAD, ids=range(len(BAD)))
def test_bad_grammars(engine, options, said):
    """One line, at once, and little of the input."""
    started = time.perf_counter()
    with pytest.raises(InputError, match=said) as caught:
        engine.generate([5, 6], "ar", **options)
    assert time.perf_counter() - started < 2
    assert len(str(caught.value)) < 300
    assert "\n" not in str(caught.value)
    assert engine.core.idle


def test_hostile_grammars_take_little_time(engine):
    """What can be built is followed; no single step holds up the others for long."""
    longest = 0.0
    tick = Core.tick

    def timed(core):
        nonlocal longest
        started = time.perf_counter()
        tick(core)
        longest = max(longest, time.perf_counter() - started)

    doubling = {"a0": {"type": "string"}}
    for i in range(1, 26):
        doubling[f"a{i}"] = {"anyOf": [{"$ref": f"#/$defs/a{i - 1}"}] * 2}
    hostile = [
        {"regex": "(a{100}){100}"},
        {"regex": r"(\w{1,50}[ ,]){1,500}"},
        {"regex": "(.*a.*b.*c.*d){10}"},
        {"json_schema": {"$defs": doubling, "$ref": "#/$defs/a25"}},
        {"json_schema": {"type": "array", "items": {"type": "integer"}, "minItems": 100_000}},
        {"json_schema": {"type": "object", "properties": {f"k{i}": {} for i in range(900)}}},
        {"json_schema": {"x-guidance": {"whitespace_pattern": "(a{1000}){1000}"}, "type": "object"}},
    ]
    with pytest.MonkeyPatch.context() as patched:
        patched.setattr(Core, "tick", timed)
        for options in hostile:
            try:
                engine.generate([5, 6], "ar", temperature=1.0, seed=1, max_new_tokens=30, **options)
            except InputError:
                assert engine.core.idle
    assert longest < 1


def test_a_tokenizer_that_llguidance_does_not_read(engine):
    with pytest.raises(BundleError, match="llguidance does not read the bundle's tokenizer"):
        Engine(engine.runner, Tokenizer(models.WordLevel({"a": 4}, "a"))).generate([5], "ar", regex="a")


def test_without_a_tokenizer_and_without_the_package(engine, monkeypatch):
    with pytest.raises(InputError, match="regex is about text, but the bundle has no tokenizer"):
        Engine(engine.runner).generate([5], "ar", regex="a")
    real = builtins.__import__

    def missing(name, *rest, **more):
        if name.partition(".")[0] == "llguidance":
            raise ImportError("No module named 'llguidance'")
        return real(name, *rest, **more)

    monkeypatch.setattr(builtins, "__import__", missing)
    with pytest.raises(MissingDependencyError, match=r"pip install 'twotower-compiler\[structured\]'"):
        Engine(engine.runner, TOKENIZER).generate([5], "ar", regex="a")
    assert Engine(engine.runner, TOKENIZER).generate([5], "ar", max_new_tokens=2).finish_reason


def test_large_grammars_of_good_will(engine):
    words = [f"{number:05d}" for number in range(1000)]
    schema = {"type": "object", "properties": {"w": {"enum": words * 3}}, "required": ["w"]}
    for options in ({"json_schema": schema | {"additionalProperties": False}}, {"one_of": words}):
        result = engine.generate([5, 6], "ar", temperature=1.0, seed=1, **options)
        assert any(word in result.text for word in words)


def test_one_grammar_is_built_once(engine, monkeypatch):
    import ttc.runtime.structured as structured

    built, real = [], structured._built
    monkeypatch.setattr(structured, "_built", lambda *given: built.append(given[0]) or real(*given))
    fresh = Engine(engine.runner, TOKENIZER)
    for seed in range(3):
        fresh.generate([5, 6], "ar", n=4, seed=seed, temperature=1.0, one_of=["a", "b"])
    for number in range(40):
        fresh.generate([5, 6], "ar", one_of=[str(number)])
    assert len(built) == 41
    assert len(fresh._reader._grammars._built) <= structured._MOST_KEPT
