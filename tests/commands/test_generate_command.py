"""`ttc generate` as a command: what it prints where, and what a user can get wrong."""

import json
import shutil
from pathlib import Path

import pytest

import ttc
from tests.support.command_line import JSON_KEYS, ask, refused, run


@pytest.mark.parametrize("mode", ["diffusion", "ar", "mock-ar"])
@pytest.mark.parametrize("backend", ["onnxruntime", "torch"])
def test_generate_json_is_what_the_engine_gives(tiny: Path, mode: str, backend: str) -> None:
    arguments = ["generate", tiny, "5 6 7", "--ids", "--mode", mode, "--backend", backend]
    found = ask(*arguments, "--max-new-tokens", 20, "--no-stop-at-eos")
    assert set(found) >= JSON_KEYS
    with ttc.load(tiny, backend) as engine:
        result = engine.generate([5, 6, 7], mode=mode, max_new_tokens=20, stop_at_eos=False)
    assert isinstance(result, ttc.Result)
    assert found["token_ids"] == list(result.token_ids)
    assert found["text"] is None
    assert (found["mode"], found["backend"], found["prompt_tokens"]) == (mode, backend, 3)
    assert (found["nfe"], found["finish_reason"]) == (result.stats.nfe, "length")
    assert found["nfe_per_block"] == list(result.stats.nfe_per_block)
    assert found["context_calls"] == result.stats.context_calls
    assert (found["tokens_per_nfe"] is None) == (mode == "ar")


def test_options_reach_the_engine(tiny: Path) -> None:
    same = ["generate", tiny, "5 6", "--ids", "--max-new-tokens", 16, "--no-stop-at-eos"]
    assert ask(*same, "--steps", 1)["nfe_per_block"] == [1]
    assert ask(*same, "--threshold", 1)["nfe_per_block"] == [16]
    assert len(ask(*same, "--block-size", 8)["nfe_per_block"]) == 2
    sampled = [*same, "--mode", "ar", "--temperature", 1.5]
    tokens = ask(*sampled, "--seed", 11)
    assert tokens["seed"] == 11
    assert ask(*sampled, "--seed", 11)["token_ids"] == tokens["token_ids"]
    assert ask(*sampled, "--seed", 12)["token_ids"] != tokens["token_ids"]
    assert ask(*sampled, "--seed", 12, "--top-k", 1)["token_ids"] == ask(*same, "--mode", "ar")["token_ids"]


def test_text_goes_to_stdout_and_figures_to_stderr(mini: Path) -> None:
    done = run("generate", mini, "Question: 1+1\nAnswer:", "--max-new-tokens", 20)
    found = ask("generate", mini, "Question: 1+1\nAnswer:", "--max-new-tokens", 20)
    assert done.stdout == found["text"] + "\n"
    warning, figures = done.stderr.splitlines()
    assert warning.startswith("warning: the bundle's bfloat16 graphs")
    assert f"{len(found['token_ids'])} tokens in " in figures
    assert f"; {found['nfe']} NFE, " in figures
    assert figures.endswith(f"; ended by {found['finish_reason']}")
    assert found["notes"] == [warning.removeprefix("warning: ")]


def test_ids_are_read_and_written(mini: Path, tiny: Path) -> None:
    for bundle in (mini, tiny):
        done = run("generate", bundle, " 5\n6  7 ", "--ids", "--max-new-tokens", 8)
        found = ask("generate", bundle, "5 6 7", "--ids", "--max-new-tokens", 8)
        assert done.stdout == " ".join(map(str, found["token_ids"])) + "\n"


def test_a_prompt_from_stdin(mini: Path) -> None:
    same = ["--max-new-tokens", 16]
    from_argument = ask("generate", mini, "Question:\n", *same)
    assert ask("generate", mini, "-", *same, input="Question:\n\n")["token_ids"] == from_argument["token_ids"]
    assert ask("generate", mini, "-", "--ids", *same, input="5 6\n")["prompt_tokens"] == 2
    assert "not UTF-8" in refused("generate", mini, "-", input=b"\xff")


def test_no_new_tokens(tiny: Path) -> None:
    done = run("generate", tiny, "5", "--ids", "--max-new-tokens", 0)
    assert (done.exit_code, done.stdout) == (0, "\n")


@pytest.mark.parametrize(
    ("options", "named"),
    [
        (["--mode", "lossless", "--draft-steps", "0"], "draft_steps is 0; valid"),
        (["--mode", "lossless", "--draft-steps", "some"], "draft_steps is 'some'; valid"),
        (
            ["--backend", "tensorrt"],
            "engines.json: missing; a set of engines is a folder made by `ttc build`",
        ),
        (["--engines", "."], "backend 'onnxruntime' runs no engines"),
        (["--graph-level", "1"], "backend 'onnxruntime' has no CUDA graphs"),
        (["--device", "toaster"], "'toaster'; valid: cpu"),
        (["--threshold", "1.5"], "threshold is 1.5; valid"),
        (["--threshold", "nan"], "threshold is nan; valid"),
        (["--steps", "0"], "steps is 0; valid"),
        (["--block-size", "0"], "block_size is 0; valid"),
        (["--max-new-tokens", "-1"], "max_new_tokens is -1; valid"),
        (["--temperature", "-1"], "temperature is -1.0; valid"),
        (["--top-k", "5"], "top_k"),
        (["--capacity", "0"], "capacity is 0; valid"),
        (["--capacity", "4"], "the capacity is 4"),
        (["--seed", "-1"], "seed is -1; valid"),
        (["--checkpoint", "."], "packed"),
    ],
)
def test_nonsense_options(tiny: Path, options: list[str], named: str) -> None:
    assert named in refused("generate", tiny, "5 6", "--ids", *options)


@pytest.mark.parametrize(
    ("prompt", "named"),
    [
        ("", "empty"),
        ("5 x", "word 1 of the prompt is 'x'"),
        ("5 " + "9" * 5000, "word 1 of the prompt is '999"),
        ("5 -1", "token id -1"),
        ("5 99999", "token id 99999"),
    ],
)
def test_nonsense_ids(tiny: Path, prompt: str, named: str) -> None:
    assert named in refused("generate", tiny, prompt, "--ids")


def test_text_for_a_bundle_without_tokenizer(tiny: Path) -> None:
    assert "no tokenizer.json" in refused("generate", tiny, "Hello")


def test_text_that_is_no_text(mini: Path) -> None:
    assert "the prompt is not UTF-8" in refused("generate", mini, "a\udcff")


def test_what_is_no_bundle(tmp_path: Path) -> None:
    assert "no such folder" in refused("generate", tmp_path / "two\nlines", "x")
    assert "not a bundle" in refused("generate", tmp_path, "x")


def test_a_damaged_bundle(tiny: Path, tmp_path: Path) -> None:
    copy = shutil.copytree(tiny, tmp_path / "b")
    raw = bytearray((copy / "step.onnx").read_bytes())
    raw[-1] ^= 1
    (copy / "step.onnx").write_bytes(raw)
    for command in (["generate", copy, "5", "--ids"], ["inspect", copy]):
        assert "step.onnx: its content is not what was exported" in refused(*command)


def test_options_are_refused_before_the_weights_are_loaded(mini: Path) -> None:
    """One line: no word yet of how the model would have been loaded."""
    for wrong in (["--threshold", "2"], ["--draft-steps", "0"], ["--max-new-tokens", "-3"]):
        done = run("generate", mini, "1+1", *wrong)
        assert done.exit_code == 1
        assert len(done.stderr.splitlines()) == 1, done.stderr


def test_structured_output(mini: Path, tmp_path: Path) -> None:
    schema = tmp_path / "schema.json"
    schema.write_text('{"type": "array", "items": {"enum": [1, 22]}, "maxItems": 2}')
    same = ["generate", mini, "How many?", "--mode", "ar"]
    found = ask(*same, "--json-schema", schema)
    assert found["finish_reason"] == "stop"
    assert set(json.loads(found["text"])) <= {1, 22}
    assert ask(*same, "--regex", "[0-9]{2} keys")["text"][2:] == " keys"
    done = run(*same, "--choice", "yes", "--choice", "no")
    assert done.stdout.strip() in ("yes", "no")
    assert "ended where its grammar ends" in done.stderr


def test_structured_output_that_is_refused(tiny: Path, tmp_path: Path) -> None:
    broken, latin = tmp_path / "broken.json", tmp_path / "latin.json"
    broken.write_text("{")
    latin.write_bytes(b"{\xe9")
    same = ["generate", tiny, "5", "--ids", "--mode", "ar"]
    assert "json_schema: not valid JSON" in refused(*same, "--json-schema", broken)
    assert "not UTF-8 text (byte 1)" in refused(*same, "--json-schema", latin)
    assert "cannot be read" in refused(*same, "--json-schema", tmp_path / "none.json")
    assert "regex and one_of are given" in refused(*same, "--regex", "a", "--choice", "b")
    assert "no tokenizer.json" in refused(*same, "--regex", "a")
    assert "regex does not apply to mode 'diffusion'" in refused(
        "generate", tiny, "5", "--ids", "--regex", "a"
    )


def test_prompts_of_a_file(tiny: Path, tmp_path: Path) -> None:
    few = ("--max-new-tokens", 4, "--no-stop-at-eos")
    source, made = tmp_path / "in.jsonl", tmp_path / "out.jsonl"
    lines = [{"token_ids": [5, 6], "id": "a"}, {"token_ids": [7], "mode": "ar", "n": 2}]
    source.write_text("".join(json.dumps(line) + "\n\n" for line in lines))
    done = run("generate", tiny, "--prompts", source, *few, "-o", made)
    assert (done.exit_code, done.stdout) == (0, "")
    assert f"wrote {made}" in done.stderr
    found = [json.loads(line) for line in made.read_text().splitlines()]
    assert [(one["id"], one["mode"]) for one in found] == [("a", "diffusion"), (1, "ar"), (1, "ar")]
    assert found[0]["token_ids"] == ask("generate", tiny, "5 6", "--ids", *few)["token_ids"]
    text = tmp_path / "in.txt"
    text.write_text("5 6\n7\n")
    done = run("generate", tiny, "--prompts", text, "--token-ids", *few)
    assert [json.loads(line)["id"] for line in done.stdout.splitlines()] == [0, 1]
    assert json.loads(done.stdout.splitlines()[0])["token_ids"] == found[0]["token_ids"]


@pytest.mark.parametrize(
    ("line", "named"),
    [
        ('{"prompt": "a", "moder": "ar"}', "in.jsonl, line 1: unknown option 'moder'"),
        ("{}", 'either "prompt" or "token_ids" is expected'),
        ('{"prompt": 3}', "prompt is 3; valid: a text"),
        ("[", "in.jsonl, line 1"),
        ("", "no prompt in it"),
    ],
)
def test_prompts_that_are_none(tiny: Path, tmp_path: Path, line: str, named: str) -> None:
    (tmp_path / "in.jsonl").write_text(line + "\n")
    assert named in refused("generate", tiny, "--prompts", tmp_path / "in.jsonl")


def test_interactive(mini: Path) -> None:
    prompt = "Question: Sort 3, 1.\\nAnswer:"
    done = run("generate", mini, "-i", "--max-new-tokens", 16, input=f"{prompt}\n\n{prompt}\n")
    text = ask("generate", mini, prompt.replace("\\n", "\n"), "--max-new-tokens", 16)["text"]
    assert done.stdout == f"{text}\n{text}\n"
    assert done.stderr.count(" tokens in ") == 2
    done = run("generate", mini, "-i", "--token-ids", input="x\n5\n")
    assert "error: --token-ids: word 0" in done.stderr
    assert len(done.stdout.splitlines()) == 1


@pytest.mark.parametrize(
    "words",
    [
        [],
        ["5", "--example", "sort"],
        ["-i", "--show-steps"],
        ["5", "-o", "a.jsonl"],
        ["--example", "sort", "--ids"],
    ],
)
def test_one_way_to_give_prompts(tiny: Path, words: list[str]) -> None:
    assert run("generate", tiny, *words).exit_code == 2
