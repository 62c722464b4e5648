"""`ttc bench --headline`: what it measures, and how it tells it."""

import dataclasses
from pathlib import Path

import pytest

from tests.support.command_line import ask, run
from ttc.bench.headline import notes, rows, speedups
from ttc.bench.schema import Report
from ttc.errors import InputError

ROOT = Path(__file__).parents[2]


def test_speed_and_quality_stand_side_by_side(report: Report) -> None:
    ar, diffusion = report.cases
    assert speedups(ar, ar) == (1.0, 1.0, 1.0)
    assert speedups(diffusion, ar) == pytest.approx((0.19 / 0.09, 2.0, 2.5))
    assert rows(report) == [
        ("ar", "1.00", "–", "8 of 10", "50.0% to 95.0%", "100.0%"),
        ("diffusion γ0.9", "2.11", "2.00–2.50", "2 of 10", "5.0% to 50.0%", "25.0%"),
    ]
    measured, means = notes(report)
    assert "median of 3 turns over 2 of 10 held-out problems" in measured
    assert "nothing of the large model's quality" in means


def test_nothing_is_right_without_problems(report: Report) -> None:
    cases = [
        dataclasses.replace(case, answers=dataclasses.replace(case.answers, quality=None))
        for case in report.cases
    ]
    with pytest.raises(InputError, match="no right answers"):
        rows(dataclasses.replace(report, cases=tuple(cases)))


def test_the_command_measures_the_miniature() -> None:
    found = ask("bench", "--headline", "--limit", 3, "--timed", 1, "--repeats", 2)
    cases = {case["mode"]: case for case in found["cases"]}
    assert list(cases) == ["ar", "diffusion", "lossless", "prompt-lookup"]
    assert (cases["lossless"]["steps"], found["work"]["tasks"]) == (4, "problems.jsonl")
    assert cases["lossless"]["answers"]["same_as_ar"] == 1.0
    told = run("bench", "--headline", "--limit", 1, "--timed", 1, "--repeats", 1).stdout
    assert "speedup" in told
    assert "nothing of the large model's quality" in " ".join(told.split())


def test_the_miniature_has_problems_of_its_own(tmp_path: Path) -> None:
    """Random prompts say nothing of it; whoever names others gets them."""
    timed = ("--timed", 1, "--repeats", 1, "--modes", "diffusion")
    assert ask("bench", "miniature", "--limit", 3, *timed)["work"]["tasks"] == "problems.jsonl"
    own = tmp_path / "own.jsonl"
    first = (ROOT / "ttc/miniature/problems.jsonl").read_text(encoding="utf-8").splitlines()[0]
    own.write_text(first + "\n", encoding="utf-8")
    assert ask("bench", "miniature", "--tasks", own, *timed)["work"]["tasks"] == "own.jsonl"


@pytest.mark.parametrize(
    ("given", "said"),
    [
        (("--headline", "--batch", 2), "--batch does not go with --headline; what does: --tasks"),
        (("somewhere", "--headline"), "give a BUNDLE, or --headline, or --compare"),
    ],
)
def test_what_does_not_go_with_it_is_refused(given: tuple[object, ...], said: str) -> None:
    done = run("bench", *given)
    assert (done.exit_code, done.stdout) == (2, "")
    assert said in done.stderr
