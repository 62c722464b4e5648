"""The report as a browser shows it: on a phone and on a desk, light and dark."""

from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.support.chromium import CHROMIUM, Browser, browsing
from tests.support.pictures import assert_looks_as_before
from ttc.bench.page import page
from ttc.bench.schema import Report, read_report

ROOT = Path(__file__).parents[2]
pytestmark = pytest.mark.skipif(CHROMIUM is None, reason="no Chromium is installed")
# Labels of one plot that lie on each other.
OVERPRINTS = """
[...document.querySelectorAll("svg")].flatMap(svg => {
  const boxes = [...svg.querySelectorAll("text")]
    .map(text => [text.textContent, text.getBoundingClientRect()]);
  const meet = (one, other) => one.left < other.right - 1 && other.left < one.right - 1
    && one.top < other.bottom - 3 && other.top < one.bottom - 3;
  return boxes.flatMap(([a, one], i) =>
    boxes.slice(i + 1).filter(([b, other]) => meet(one, other)).map(([b]) => a + " | " + b));
})
"""
SMALLEST = """
Math.min(...[...document.querySelectorAll("svg text")].map(text =>
  parseFloat(getComputedStyle(text).fontSize) * text.ownerSVGElement.getBoundingClientRect().width /
  text.ownerSVGElement.viewBox.baseVal.width))
"""
# The least contrast of ink on the page's ground, and of a plot's colour on it.
CONTRAST = """
(selector, property) => {
  const light = color => {
    const parts = color.match(/[\\d.]+/g).slice(0, 3).map(Number)
      .map(v => color.startsWith("color(") ? v : v / 255)
      .map(v => v <= 0.04045 ? v / 12.92 : ((v + 0.055) / 1.055) ** 2.4);
    return 0.2126 * parts[0] + 0.7152 * parts[1] + 0.0722 * parts[2];
  };
  const ground = light(getComputedStyle(document.body).backgroundColor);
  return Math.min(...[...document.querySelectorAll(selector)].map(one => {
    const ink = light(getComputedStyle(one)[property]);
    return (Math.max(ink, ground) + 0.05) / (Math.min(ink, ground) + 0.05);
  }));
}
"""


@pytest.fixture(scope="module")
def browser(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Browser]:
    with browsing(tmp_path_factory.mktemp("profile")) as found:
        yield found


@pytest.fixture(scope="module")
def address(tmp_path_factory: pytest.TempPathFactory) -> str:
    """Of the page of the record that the documents show."""
    file = tmp_path_factory.mktemp("page") / "bench.html"
    file.write_text(page(read_report(ROOT / "benchmarks/results/miniature_bench.json")), encoding="utf-8")
    return file.as_uri()


@pytest.mark.parametrize("scheme", ["light", "dark"])
@pytest.mark.parametrize("width", [390, 1280])
def test_the_page_can_be_read(browser: Browser, address: str, width: int, scheme: str) -> None:
    browser.look(width, scheme)
    browser.open(address)
    assert browser.complaints == []
    assert browser.run("document.documentElement.scrollWidth") <= width, "only tables scroll sideways"
    assert browser.run(OVERPRINTS) == []
    assert browser.run(SMALLEST) >= 9
    texts = "td, th, p, h1, h2, figcaption, dt, dd, summary"
    assert browser.run(f"({CONTRAST})({texts!r}, 'color')") >= 4.5
    assert browser.run(f"({CONTRAST})('svg text, svg circle', 'fill')") >= 3
    dark = browser.run("getComputedStyle(document.body).backgroundColor") != "rgb(255, 255, 255)"
    assert dark is (scheme == "dark")


def test_a_mode_has_one_colour(browser: Browser, address: str) -> None:
    """In the legend and in the plots of one mode alone."""
    browser.look(1280)
    browser.open(address)
    items = "[...document.querySelectorAll('.legend li')]"
    item = f"{items}.find(li => li.textContent === 'diffusion').firstChild"
    drawing = (
        "[...document.querySelectorAll('svg')].find(svg => svg.textContent.startsWith('tokens per NFE'))"
    )
    legend = browser.run(f"getComputedStyle({item}).backgroundColor")
    assert browser.run(f"getComputedStyle({drawing}.querySelector('circle')).fill") == legend


@pytest.mark.parametrize("scheme", ["light", "dark"])
@pytest.mark.parametrize("width", [390, 1280])
def test_the_page_looks_as_before(
    browser: Browser, report: Report, tmp_path: Path, width: int, scheme: str
) -> None:
    file = tmp_path / "bench.html"
    file.write_text(page(report), encoding="utf-8")
    browser.look(width, scheme)
    browser.open(file.as_uri())
    assert_looks_as_before(browser, f"bench-{width}-{scheme}", tmp_path)
