"""The checkers, the loops they do not let through, and the task files they come from."""

import json
from pathlib import Path

import pytest

from ttc.bench.patterns import PatternSearch
from ttc.bench.problems import Problem, load_problems, prompts_digest, random_prompts
from ttc.bench.quality import is_looping, is_right, wilson
from ttc.errors import InputError
from ttc.model.config import ModelConfig


@pytest.mark.parametrize(
    ("check", "answer", "right", "wrong"),
    [
        (
            "answer",
            "50",
            [
                " 6*13=78 and 78-28=50. The answer is 50.",
                "answer is 50",
                "#### 50\n",
                "the answer is $50.00.",
            ],
            ["50", "The answer is 40.", "The answer is 50. No, the answer is 40.", "The answer is 505.", ""],
        ),
        ("answer", "1200", ["The answer is 1,200."], ["The answer is 1,20.", "The answer is 1.200."]),
        ("answer", "-0.5", ["The answer is -.50."], ["The answer is 0.5."]),
        ("answer", "3, 5, 8", ["The answer is 3, 5,  8."], ["The answer is 3, 8, 5.", "The answer is 358."]),
        ("answer", "nan", ["The answer is NaN."], ["The answer is 1."]),
        ("exact", "3 March", [" 3 March\n"], [" 3 March.", "3 march", ""]),
        ("regex", r"\b[A-Z]{3}-\d+\b", ["code ABC-12 it is"], ["code ABC12", "abc-12"]),
        (
            "json",
            '{"a": 1, "b": [true, null]}',
            [' {"b":[true,null],"a":1}', '{"a": 1.0, "b": [true, null]}\n'],
            [
                '{"a": 1, "b": [1, null]}',
                '{"a": 1, "b": [true, null]} {}',
                '{"a": 2, "a": 1, "b": [true, null]}',
                '{"a": "1", "b": [true, null]}',
                '{"a": 1}',
                '{"a": NaN}',
                "{",
                "",
            ],
        ),
    ],
)
def test_checkers(check: str, answer: str, right: list[str], wrong: list[str]) -> None:
    problem = Problem("p", answer, check)
    with PatternSearch() as search:
        assert [is_right(problem, text, search) for text in right] == [True] * len(right)
        assert [is_right(problem, text, search) for text in wrong] == [False] * len(wrong)


@pytest.mark.timeout(20)
def test_a_pattern_that_takes_for_ever_is_a_wrong_answer(caplog: pytest.LogCaptureFixture) -> None:
    endless = Problem("p", "(a+)+$", "regex")
    with PatternSearch(seconds=0.5) as search:
        assert is_right(endless, "aaaa", search)
        assert not is_right(endless, "a" * 64 + "b", search)
        assert "the pattern '(a+)+$' takes longer than 0.5 s; its answer counts as wrong" in caplog.text
        assert is_right(endless, "baa", search)


@pytest.mark.parametrize(
    "answer", ["a{99999999999}", "a{" + "9" * 5000 + "}", "(?:" * 5000, "(", "x" * 10_001]
)
def test_a_pattern_that_is_none_is_refused(tmp_path: Path, answer: str) -> None:
    file = tmp_path / "tasks.jsonl"
    file.write_text(json.dumps({"prompt": "p", "answer": answer, "check": "regex"}))
    with pytest.raises(
        InputError, match=r"tasks.jsonl line 1: (the pattern .* is not valid|a pattern of)"
    ) as no:
        load_problems(file)
    assert len(str(no.value)) < 500


def test_nothing_after_a_stop_is_looked_at() -> None:
    text = "The answer is 5.\nQuestion: more\nAnswer: The answer is 7."
    search = PatternSearch()
    assert not is_right(Problem("p", "5", "answer"), text, search)
    assert is_right(Problem("p", "5", "answer", stop=("\nQuestion:",)), text, search)


@pytest.mark.parametrize("period", [1, 2, 7, 12])
def test_a_loop_is_found_wherever_it_is(period: int) -> None:
    piece = list(range(period))
    loop = (piece * 24)[: max(24, 3 * period)]
    assert is_looping([90, 91, *loop])
    assert is_looping([90, 91, *loop, 92, 93, 2])
    assert not is_looping([90, 91, *loop[:-1]])


def test_repetition_that_means_something_is_no_loop() -> None:
    assert not is_looping(list(range(200)))
    assert not is_looping([5] * 20 + [6] + [5] * 20)
    assert not is_looping([*range(50), *range(50)])
    assert not is_looping([])


def test_wilson() -> None:
    low, high = wilson(8, 10)  # statsmodels.stats.proportion.proportion_confint(8, 10, method="wilson")
    assert (round(low, 4), round(high, 4)) == (0.4902, 0.9433)
    assert wilson(0, 20)[0] == 0.0
    assert wilson(20, 20)[1] == 1.0


def task_file(folder: Path, *lines: object) -> Path:
    file = folder / "tasks.jsonl"
    file.write_text("\n".join(line if isinstance(line, str) else json.dumps(line) for line in lines))
    return file


def test_a_task_file(tmp_path: Path) -> None:
    file = task_file(
        tmp_path,
        {"prompt": "1+1=", "answer": "2", "check": "exact"},
        "",
        {"prompt": "q", "answer": "[1]", "check": "json", "task": "lists", "stop": ["\n"], "text": " [1]"},
    )
    assert load_problems(file) == (
        Problem("1+1=", "2", "exact", "all", ()),
        Problem("q", "[1]", "json", "lists", ("\n",)),
    )
    assert len(load_problems(file, 1)) == 1


@pytest.mark.parametrize(
    ("line", "complaint"),
    [
        ("{", "line 1: not valid JSON"),
        ({"prompt": "p", "answer": "a"}, "line 1: the key 'check' is missing"),
        (
            {"prompt": "p", "answer": "a", "check": "vibes"},
            "'check' is 'vibes', one of answer, exact",
        ),
        ({"prompt": "p", "answer": "(", "check": "regex"}, "the pattern '\\(' is not valid"),
        ({"prompt": "p", "answer": "{", "check": "json"}, "answer: not valid JSON"),
        ({"prompt": "p", "answer": "a", "check": "exact", "stp": []}, "unknown key"),
        ("", "no problems in it"),
    ],
)
def test_a_wrong_task_file_is_refused(tmp_path: Path, line: object, complaint: str) -> None:
    with pytest.raises(InputError, match=complaint):
        load_problems(task_file(tmp_path, line))


def test_too_many_or_no_problems(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="2 problems asked for; valid: 1 to 1"):
        load_problems(task_file(tmp_path, {"prompt": "p", "answer": "a", "check": "exact"}), 2)
    with pytest.raises(InputError, match="cannot be read"):
        load_problems(tmp_path / "none.jsonl")


def test_the_digest_tells_prompts_and_answers_apart() -> None:
    one, other = Problem("p", "a", "exact"), Problem("p", "b", "exact")
    digests = [
        prompts_digest([[1, 2], [3]], None),
        prompts_digest([[1, 2, 3]], None),
        prompts_digest([[1, 2], [3]], [one, one]),
        prompts_digest([[1, 2], [3]], [one, other]),
    ]
    assert len(set(digests)) == len(digests)
    assert prompts_digest([(1, 2), (3,)], [one, one]) == digests[2]


def test_random_prompts_hold_no_special_token(small_model: ModelConfig) -> None:
    prompts = random_prompts(small_model, 4, 200, seed=7)
    assert {len(prompt) for prompt in prompts} == {200}
    assert not {token for prompt in prompts for token in prompt} & {2, 3}
    assert prompts == random_prompts(small_model, 4, 200, seed=7)
    assert prompts != random_prompts(small_model, 4, 200, seed=8)
