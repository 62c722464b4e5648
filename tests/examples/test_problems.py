"""The miniature's problems, their checks, and the tokenizer."""

import dataclasses
import json
import random
import re
from pathlib import Path

import pytest

from examples.miniature import data
from examples.miniature.checks import solved
from examples.miniature.data import TASKS, WORDS, Problem, held_out, make, problem_file
from examples.miniature.tokenizer import build

ROOT = Path(__file__).parents[2]
ASSET = ROOT / "ttc" / "miniature"
FILE = ROOT / "benchmarks" / "problems" / "miniature.jsonl"


def listed() -> list[dict[str, str]]:
    return [json.loads(line) for line in FILE.read_text(encoding="utf-8").splitlines()]


def test_the_problem_file_is_what_the_generator_makes() -> None:
    assert FILE.read_text(encoding="utf-8") == problem_file()
    assert (
        ASSET.joinpath("problems.jsonl").read_text(encoding="utf-8").splitlines()
        == (problem_file().splitlines()[:200])
    )


def test_the_problem_file_holds_every_task_and_no_prompt_twice() -> None:
    problems = listed()
    assert {task: sum(p["task"] == task for p in problems) for task in TASKS} == {
        task: 500 if task == "word" else 50 for task in TASKS
    }
    assert len({p["prompt"] for p in problems}) == len(problems)


def skeleton(prompt: str) -> str:
    """The prompt without what decides nothing: who, which things, and which of the verbs of one meaning."""
    if prompt.startswith(("Question: Write", "Question: Sort", "Question: Copy")):
        return prompt
    for words, mark in (
        (data.NAMES, "N"),
        (data.THINGS, "T"),
        (data.BOXES, "B"),
        (data.GAINS, "G"),
        (data.LOSSES, "L"),
    ):
        prompt = re.sub(rf"\b({'|'.join(words)})\b", mark, prompt)
    return prompt


def test_training_never_makes_a_held_out_problem() -> None:
    """By the text itself, so a key that forgets something would show."""
    rng = random.Random(7)
    trained = {skeleton(make(rng, "train").prompt) for _ in range(8000)}
    assert not trained & {skeleton(problem["prompt"]) for problem in listed()}
    # The same draw without the rule does meet them: the test would notice.
    drawn = {skeleton(TASKS["word"][0](rng).prompt) for _ in range(8000)}
    assert drawn & {skeleton(problem["prompt"]) for problem in listed()}


def test_a_tenth_is_held_out() -> None:
    rng = random.Random(3)
    for task, (maker, _) in TASKS.items():
        share = sum(held_out(maker(rng).key) for _ in range(600)) / 600
        assert 0.05 < share < 0.16, task


def test_a_seed_gives_the_same_problems() -> None:
    first, second, other = ([make(random.Random(seed), "train") for _ in range(3)] for seed in (1, 1, 2))
    assert first == second
    assert first != other


def test_every_computation_in_the_answers_is_right() -> None:
    found = 0
    for problem in listed():
        for a, sign, b, result in re.findall(r"(\d+)([-+*/])(\d+)=(\d+)", problem["text"]):
            x, y = int(a), int(b)
            expected = {"+": x + y, "-": x - y, "*": x * y, "/": x // y}[sign]
            assert expected == int(result), problem["text"]
            found += 1
    assert found > 1000


def test_the_checks_take_the_reference_and_nothing_broken() -> None:
    for problem in listed():
        check, answer, text = problem["check"], problem["answer"], problem["text"]
        assert solved(check, answer, text, ended=True)
        assert not solved(check, answer, text, ended=False)
        assert not solved(check, answer, text[: len(text) // 2], ended=True)
        last = max(i for i, letter in enumerate(text) if letter.isalnum())
        wrong = text[:last] + ("1" if text[last] == "0" else "0") + text[last + 1 :]
        assert not solved(check, answer, wrong, ended=True)
    assert not solved("answer", "5", " The answer is 5. The answer is 5.", ended=True)
    with pytest.raises(ValueError, match="valid: answer, exact, json"):
        solved("regex", "5", "5", ended=True)


# The tokenizer.


def test_the_tokenizer_gives_every_text_back() -> None:
    tokenizer = build(WORDS)
    for text in (*(p["text"] for p in listed()[:50]), "Größe 12 – naïve\n\tx  y", "日本"):
        ids = tokenizer.encode(text, add_special_tokens=False).ids
        assert tokenizer.decode(ids) == text
    assert tokenizer.encode("Nina 42").tokens[0] == "<s>"
    assert tokenizer.encode("x42", add_special_tokens=False).tokens == ["x", "4", "2"]


def test_problems_are_frozen() -> None:
    problem = make(random.Random(0), "train")
    with pytest.raises(dataclasses.FrozenInstanceError):
        problem.answer = "0"  # type: ignore[misc]
    assert isinstance(problem, Problem)
