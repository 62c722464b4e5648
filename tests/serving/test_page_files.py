"""The page's files: how they are served, that they ask no other host, the contrast of their colours."""

import re
from pathlib import Path

import pytest

from tests.support.service import Running
from ttc.serving.page import page_files
from ttc.serving.routes.page import PAGE_PATHS

FOLDER = Path(__file__).parents[2] / "serving" / "page"
SOURCES = sorted(path for path in FOLDER.iterdir() if path.suffix in (".html", ".css", ".js", ".svg"))
COLOUR = re.compile(r"--([\w-]+): light-dark\((#[0-9a-f]{6}), (#[0-9a-f]{6})\);")
# (what stands, on what, WCAG 2.2's least contrast): 4.5 for text, 3 for edges that carry meaning.
PAIRS = [
    *((ink, ground, 4.5) for ink in ("ink", "soft") for ground in ("ground", "raised")),
    ("on-fresh", "fresh", 4.5),
    ("on-accent", "accent", 4.5),
    ("error", "error-ground", 4.5),
    ("focus", "ground", 4.5),
    ("edge", "ground", 3.0),
    ("edge", "raised", 3.0),
    ("accent", "ground", 3.0),
    ("focus", "raised", 3.0),
    ("error", "ground", 3.0),
]


def contrast(one: str, other: str) -> float:
    """(L1 + 0.05) / (L2 + 0.05) of the relative luminances, as WCAG 2.2 defines them."""
    light, dark = sorted((luminance(one), luminance(other)), reverse=True)
    return (light + 0.05) / (dark + 0.05)


def luminance(colour: str) -> float:
    shares = [int(colour[i : i + 2], 16) / 255 for i in (1, 3, 5)]
    red, green, blue = (c / 12.92 if c <= 0.04045 else ((c + 0.055) / 1.055) ** 2.4 for c in shares)
    return 0.2126 * red + 0.7152 * green + 0.0722 * blue


def test_contrast_is_computed_right() -> None:
    assert contrast("#000000", "#ffffff") == pytest.approx(21)
    assert contrast("#777777", "#ffffff") == pytest.approx(4.48, abs=0.005)


@pytest.mark.parametrize(("scheme", "at"), [("light", 0), ("dark", 1)])
def test_contrasts(scheme: str, at: int) -> None:
    style = (FOLDER / "style.css").read_text(encoding="utf-8")
    colours = {name: pair[at] for name, *pair in COLOUR.findall(style)}
    assert {name for pair in PAIRS for name in pair[:2]} == set(colours)
    low = {(a, b): contrast(colours[a], colours[b]) for a, b, least in PAIRS}
    assert not {pair: round(low[pair[:2]], 2) for pair in PAIRS if low[pair[:2]] < pair[2]}
    rules = style.split("}", 1)[1]
    assert not re.search(r"#[0-9a-f]{3,8}\b|rgb|hsl", rules), "a colour outside the table is not checked"
    assert set(re.findall(r"var\(--([\w-]+)\)", rules)) == set(colours)


def test_every_file_is_served(served: Running) -> None:
    assert set(page_files()) == PAGE_PATHS
    assert len(PAGE_PATHS) == len(SOURCES)
    for path in PAGE_PATHS:
        answer = served.client.get(path)
        name = path.removeprefix("/page/") if path != "/" else "index.html"
        assert answer.content == (FOLDER / name).read_bytes()
        policy = answer.headers["content-security-policy"]
        assert "default-src 'none'" in policy
        assert "unsafe" not in policy
        assert answer.headers["x-content-type-options"] == "nosniff"
        assert served.client.head(path).status_code == 200
    assert served.client.get("/").headers["content-type"].startswith("text/html")
    for path in ("/page/", "/page/__init__.py", "/page/../app.py", "/page/%2e%2e/app.py", "/page/nothing.js"):
        assert served.client.get(path).status_code == 404
    assert served.post("/").status_code == 405


@pytest.mark.parametrize("path", SOURCES, ids=lambda path: path.name)
def test_a_file_asks_no_other_host_and_makes_no_markup(path: Path) -> None:
    text = path.read_text(encoding="utf-8").replace('xmlns="http://www.w3.org/2000/svg"', "")
    assert "//" not in re.sub(r"^\s*// .*$", "", text, flags=re.MULTILINE), "an address, or code in a comment"
    for way in ("innerHTML", "outerHTML", "insertAdjacentHTML", "document.write", "eval(", "new Function"):
        assert way not in text
    for motion in ("transition", "animation", "@keyframes"):
        assert motion not in text
    for asked in re.findall(r'(?:from|src=|href=)\s*"([^"#]+)"', text):
        place = asked.removeprefix("./").removeprefix("page/")
        assert (FOLDER / place).is_file() or f"/{asked}" in ("/openapi.json", "/metrics")
    if path.suffix == ".html":
        assert re.search(r"<script(?![^>]*\bsrc=)", text) is None
        assert re.search(r"<style|\sstyle=|\son\w+=", text) is None
