"""The page: opens offline, tells nothing that the report does not, and escapes what it quotes."""

import dataclasses
import re
from pathlib import Path
from xml.etree import ElementTree as ET

from ttc.bench import svg, tables
from ttc.bench.cases import BENCH_MODES
from ttc.bench.page import page
from ttc.bench.problems import CHECKS
from ttc.bench.schema import Report, Score

ROOT = Path(__file__).parents[2]


def drawings(html: str) -> list[ET.Element]:
    return [ET.fromstring(found) for found in re.findall(r"<svg .*?</svg>", html, re.DOTALL)]


def test_the_page_fetches_nothing(report: Report) -> None:
    html = page(report)
    links = re.findall(r"(?:https?:)?//[^\s\"'<]+", html)
    assert set(links) == {"http://www.w3.org/2000/svg"}
    assert not re.search(r"<(script|link|img|iframe)\b|@import|url\(", html)


def test_the_page_shows_what_is_broken_and_escapes_it(report: Report) -> None:
    html = page(report)
    assert "Broken: diffusion γ0.9." in html
    assert "keeps 25% of &lt;AR&gt;" in html
    assert "<AR>" not in html


def test_the_page_says_when_and_on_what(report: Report) -> None:
    html = page(report)
    assert "2026-01-02T03:04:05+00:00, load 0.25 to 1.50" in html
    assert "onnxruntime on cpu, 2 threads a call" in html
    gone = dataclasses.replace(report.conditions, load_at_start=None, load_at_end=None)
    assert "load unknown to unknown" in page(dataclasses.replace(report, conditions=gone))


def test_every_figure_is_drawn(report: Report) -> None:
    both = dataclasses.replace(report.cases[1], name="diffusion γ0.5", threshold=0.5)
    speed = [dataclasses.replace(case.speed[0], batch=4) for case in report.cases]
    cases = [
        dataclasses.replace(case, speed=(case.speed[0], more))
        for case, more in zip((*report.cases, both), (*speed, speed[1]), strict=True)
    ]
    work = dataclasses.replace(report.work, batch_sizes=(1, 4))
    drawn = drawings(page(dataclasses.replace(report, cases=tuple(cases), work=work)))
    titles = [drawing.findtext("{*}title") for drawing in drawn]
    assert titles == [
        "right answers, share against tokens per second",
        "right answers, share against tokens per second",
        "tokens per second against batch size",
        "tokens per NFE against threshold γ",
        "denoise steps, mean against block of the answer",
        "step by position in the block",
        "step by position in the block",
    ]


def test_several_tasks_have_a_table(report: Report) -> None:
    cases = []
    for case in report.cases:
        assert case.answers.quality is not None
        tasks = {"date": Score(1, 4), "word": Score(3, 6)}
        quality = dataclasses.replace(case.answers.quality, by_task=tasks)
        answers = dataclasses.replace(case.answers, quality=quality)
        cases.append(dataclasses.replace(case, answers=answers))
    head, rows = tables.task_rows(dataclasses.replace(report, cases=tuple(cases)))
    assert head == ("right by task", "date (4)", "word (6)")
    assert rows == [("ar", "25.0%", "50.0%"), ("diffusion γ0.9", "25.0%", "50.0%")]


def test_points_lie_where_their_values_say() -> None:
    (drawing,) = drawings(svg.plot([svg.Series("s", [(0.0, 0.0), (5.0, 1.0), (10.0, 2.0)])], "x", "y"))
    circles = drawing.findall("{*}circle")
    xs, ys = ([float(str(circle.get(key))) for circle in circles] for key in ("cx", "cy"))
    assert xs == sorted(xs)
    assert ys == sorted(ys, reverse=True)
    assert abs((xs[1] - xs[0]) - (xs[2] - xs[1])) <= 0.2  # pixels, written with one digit


def test_a_heat_map_has_a_cell_for_each_value() -> None:
    (drawing,) = drawings(svg.heat_map([[0.0, 1.0, 0.5], [1.0, 0.0, 0.5]], "position", "step"))
    cells = drawing.findall("{*}rect")
    assert [float(str(cell.get("fill-opacity"))) for cell in cells] == [0.0, 1.0, 0.5, 1.0, 0.0, 0.5]
    assert cells[1].findtext("{*}title") == "step 1, position 2: 100%"


def test_the_document_names_modes_checks_and_columns() -> None:
    text = (ROOT / "docs" / "bench.md").read_text(encoding="utf-8")
    code = set(re.findall(r"`([^`\n]+)`", text))
    assert {*BENCH_MODES, *CHECKS} <= code
    columns = set(re.split(r", |\n", "\n".join(re.findall(r"^\| ([^|`]+) \|", text, re.MULTILINE))))
    heads = {*tables.ANSWERS_HEAD, *tables.SPEED_HEAD} - {"case", "batch", "verdict", "tokens/s", "min–max"}
    latencies = {"first block ms p50/p95": "first block", "between p50/p95": "between"}
    assert {latencies.get(head, head) for head in heads} <= columns


def test_the_tables_have_a_cell_for_every_head(report: Report) -> None:
    assert {len(row) for row in tables.answer_rows(report)} == {len(tables.ANSWERS_HEAD)}
    assert {len(row) for row in tables.speed_rows(report)} == {len(tables.SPEED_HEAD)}
    assert tables.task_rows(report) == ((), [])
    assert tables.answer_rows(report)[1][-1] == "BROKEN: keeps 25% of <AR>"
