"""The record behind the README's first figures is of what the README says."""

from pathlib import Path

from ttc.bench.headline import SETTINGS, TURNS
from ttc.bench.identity import weights_digest
from ttc.bench.schema import read_report
from ttc.formats.shipped import shipped_bundle
from ttc.model.bundle import Bundle

BENCHMARKS = Path(__file__).parents[2] / "benchmarks"


def test_the_headline_is_of_this_miniature_and_all_its_problems() -> None:
    report = read_report(BENCHMARKS / "results" / "headline.json")
    with Bundle.open(shipped_bundle()) as opened:
        assert report.model.weights_sha256 == weights_digest(opened)
    problems = BENCHMARKS.joinpath("problems", "miniature.jsonl").read_text(encoding="utf-8").splitlines()
    assert report.work.problems == len(problems)
    assert (report.work.repeats, report.work.batch_sizes) == (TURNS, (1,))
    assert [case.mode for case in report.cases] == list(SETTINGS.modes or ())
    assert report.cases[1].threshold == SETTINGS.threshold[0]
