"""The README's first figures are the record's, and the record is of what the README says."""

from benchmarks.headline import PROBLEMS, README, RECORD, with_table
from ttc.bench.headline import SETTINGS, TURNS
from ttc.bench.identity import weights_digest
from ttc.bench.schema import read_report
from ttc.formats.shipped import shipped_bundle
from ttc.model.bundle import Bundle


def test_the_readme_shows_the_record() -> None:
    readme = README.read_text(encoding="utf-8")
    assert with_table(readme, read_report(RECORD)) == readme, "run: python -m benchmarks.headline --render"


def test_the_record_is_of_this_miniature_and_all_its_problems() -> None:
    report = read_report(RECORD)
    with Bundle.open(shipped_bundle()) as opened:
        assert report.model.weights_sha256 == weights_digest(opened)
    assert report.work.problems == len(PROBLEMS.read_text(encoding="utf-8").splitlines())
    assert (report.work.repeats, report.work.batch_sizes) == (TURNS, (1,))
    assert [case.mode for case in report.cases] == list(SETTINGS.modes or ())
    assert report.cases[1].threshold == SETTINGS.threshold[0]
