"""The page in a real browser: it writes, cancels, shows errors; at phone width, in both colour schemes, by
keyboard; and what a screen reader is told.
"""

import contextlib
import json
import re
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.support.chromium import CHROMIUM, Browser, BrowserEnded, browsing
from tests.support.pictures import assert_looks_as_before
from tests.support.service import QUESTION, Running, running, until
from ttc.runtime.engine import Engine

pytestmark = pytest.mark.skipif(CHROMIUM is None, reason="no Chromium on the PATH")

IDLE = "document.getElementById('write').getAttribute('aria-disabled') === 'false'"
CONTROL = 2


@pytest.fixture(scope="module")
def browser(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Browser]:
    with contextlib.ExitStack() as stack:
        try:
            started = stack.enter_context(browsing(tmp_path_factory.mktemp("profile")))
        except BrowserEnded:
            pytest.skip(f"{CHROMIUM} does not start here")
        yield started


@pytest.fixture
def page(browser: Browser, served: Running) -> Browser:
    """The page, loaded anew in a wide window."""
    browser.look(1280)
    browser.open(f"{served.url}/")
    browser.until(text("#model") + ".includes('onnxruntime on cpu')")
    return browser


def text(selector: str) -> str:
    return f"(document.querySelector({selector!r})?.textContent ?? '')"


def pane(mode: str, selector: str) -> str:
    return text(f"[data-mode={mode}] {selector}")


def figure(browser: Browser, inside: str, name: str) -> str:
    rows = f"[...document.querySelectorAll({inside + ' .figures div'!r})]"
    return str(
        browser.run(f"{rows}.find((row) => row.firstChild.textContent === {name!r}).lastChild.textContent")
    )


def fill(browser: Browser, **values: object) -> None:
    for name, value in values.items():
        browser.run(f"document.getElementById({name!r}).value = {str(value)!r}")


def write(browser: Browser) -> None:
    browser.run("document.getElementById('write').click()")


def test_it_writes_in_both_panes(page: Browser, talker: Engine, tmp_path: Path) -> None:
    assert page.run("document.getElementById('prompt').value") == QUESTION
    write(page)
    page.until(IDLE)
    for mode in ("diffusion", "ar"):
        want = talker.generate(QUESTION, mode, max_new_tokens=64)
        assert page.run(pane(mode, ".text")) == want.text
        assert page.run(text("#status")).count(want.text) >= 1
        inside = f"[data-mode={mode}]"
        assert figure(page, inside, "Tokens") == str(len(want.token_ids))
        assert figure(page, inside, "NFE") == str(want.stats.nfe)
        assert figure(page, inside, "Context calls") == str(want.stats.context_calls)
        assert re.fullmatch(r"[\d.]+ m?s", figure(page, inside, "Time"))
        if mode == "diffusion":
            steps = [str(n) for n in want.stats.nfe_per_block]
            assert figure(page, inside, "Steps of each block") == ", ".join(steps)
            assert float(figure(page, inside, "Tokens per NFE")) == pytest.approx(
                want.stats.tokens_per_nfe, abs=0.005
            )
    rows = "[...document.querySelectorAll('#service div')]"
    page.until(f"{rows}.some((row) => row.textContent.match(/^First block, p95[0-9.]+ m?s$/))")
    assert float(figure(page, "#service-title ~", "Rows per denoiser call")) >= 1
    assert page.complaints == []
    page.picture(tmp_path / "written.png")


def test_blocks_fill(page: Browser, tmp_path: Path) -> None:
    """In slow motion each event is seen: open positions, fresh ones, kept ones; the label says the same."""
    fill(page, threshold=1, temperature=1, seed=3, pace=400, beside="", max_tokens=16)
    write(page)
    cells = "document.querySelectorAll('.block .cell.{}').length"
    page.until(f"{cells.format('open')} > 0 && {cells.format('fresh')} > 0 && {cells.format('kept')} > 0")
    page.picture(tmp_path / "filling.png")
    opened, label = page.run(
        f"[{cells.format('open')}, document.querySelector('.block').getAttribute('aria-label')]"
    )
    found = re.match(r"Block 1, step \d+: (\d+) of 16 decided: ", label)
    assert found is not None, label
    assert 16 - int(found[1]) == opened == label.count("open")
    page.press("Escape")
    page.until(IDLE)


def test_cancel(page: Browser, served: Running) -> None:
    """What was written stays, the service lets go of both rows."""
    fill(page, temperature=100, seed=0, max_tokens=3000)
    gone = served.service.metrics._aborted._value
    before = gone.get()
    write(page)
    page.until(pane("ar", ".text") + ".length > 3 && " + pane("diffusion", ".text") + ".length > 3")
    page.run("document.getElementById('cancel').click()")
    page.until(IDLE)
    assert figure(page, "[data-mode=ar]", "Ended") == "cancelled"
    assert len(page.run(pane("ar", ".text"))) > 3
    assert "cancelled" in page.run(text("#status"))
    until(lambda: served.core.idle and gone.get() > before)
    assert page.complaints == []


def test_errors(page: Browser) -> None:
    """A refusal is shown with its words; a stream that breaks off does not look whole."""
    fill(page, max_tokens=10**6)
    write(page)
    page.until(IDLE)
    for mode in ("diffusion", "ar"):
        said = page.run(pane(mode, ".error"))
        assert said.startswith("400: ")
        assert "1000" in said or "1,000" in said
        assert said in page.run(text("#status"))
    assert page.run("document.querySelector('.error').checkVisibility()")
    fill(page, max_tokens=8)
    page.run(
        """window.fetch = async () => new Response('event: block\\ndata: {"text": "a", "token_ids": [1],'
        + '"tokens": ["a"]}\\n\\n')"""
    )
    write(page)
    page.until(IDLE)
    assert "broke off" in page.run(pane("diffusion", ".error"))
    page.run("window.fetch = async () => { throw new TypeError('Failed to fetch') }")
    write(page)
    page.until(IDLE)
    assert "Failed to fetch" in page.run(pane("ar", ".error"))
    page.until("!document.getElementById('metrics-error').hidden")


def test_what_a_model_writes_stays_text(page: Browser) -> None:
    hostile = '<img src=x onerror="window.hurt=1"><script>window.hurt=1</script>\0\u202e\u200b'
    page.run(
        """(async (token) => {
          const { Pane } = await import('/page/pane.js');
          const { Filling } = await import('/page/filling.js');
          const filling = new Filling('diffusion', 0);
          const pane = new Pane('diffusion');
          document.getElementById('panes').replaceChildren(pane.element);
          filling.take({ name: 'step', data: { block: 0, step: 0, tokens: [token, null] }, at: 1 });
          pane.show(filling);
          const data = { text: token, token_ids: [1, 2], tokens: [token, 'a'] };
          filling.take({ name: 'block', data, at: 2 });
          pane.show(filling);
          pane.fail(token);
        })"""
        f"({json.dumps(hostile)})"
    )
    assert page.run("document.querySelectorAll('#panes img, #panes script').length") == 0
    assert page.run("window.hurt") is None
    shown = page.run(text("#panes"))
    assert shown.count("<img src=x onerror") + shown.count("<img␣src=x␣onerror") == 3
    assert "\\u0000\\u202e\\u200b" in shown
    assert not re.search("[\u0000-\u0008\u202e\u200b]", shown)
    refused = page.run("try { document.body.innerHTML = '<b>x</b>'; 'made' } catch (e) { e.name }")
    assert refused == "TypeError"


def test_while_the_model_is_loaded(browser: Browser, served: Running) -> None:
    """It says so, and asks again by itself."""
    stub = """{ const real = fetch; let asked = 0; window.fetch = (path, ...more) =>
      path === 'v1/metadata' && asked++ === 0
        ? Promise.resolve(new Response('{"error": {"message": "being loaded"}}', { status: 503 }))
        : real(path, ...more); }"""
    made = browser.call("Page.addScriptToEvaluateOnNewDocument", source=stub)
    try:
        browser.open(f"{served.url}/")
        browser.until(text("#model") + " === '503: being loaded'")
        browser.until(text("#model") + ".includes('onnxruntime on cpu')")
    finally:
        browser.call("Page.removeScriptToEvaluateOnNewDocument", **made)


def test_a_key(browser: Browser, mini: Path) -> None:
    """It is asked for where it is wanted, and kept in the tab alone."""
    with running(mini, keys={"ada": "a-key-of-ada"}) as up:
        browser.open(f"{up.url}/")
        browser.until("document.activeElement.id === 'key'")
        write(browser)
        browser.until(IDLE)
        assert browser.run(pane("ar", ".error")).startswith("401: ")
        assert browser.run("document.activeElement.id") == "key"
        browser.write("a-key-of-ada")
        browser.press("Tab")
        browser.until(text("#model") + ".includes('onnxruntime')")
        write(browser)
        browser.until(IDLE)
        assert browser.run(pane("ar", ".text")) != ""
        assert "a-key" not in browser.run("JSON.stringify(localStorage) + document.cookie + location.href")
        browser.run("sessionStorage.clear()")


def test_widths_and_schemes(page: Browser, tmp_path: Path) -> None:
    """Nothing stands out at the side, and what the reader chose is above what the system prefers."""
    fill(page, threshold=1, temperature=1, seed=3)
    write(page)
    page.until(IDLE)
    ground = "getComputedStyle(document.body).backgroundColor"
    grounds = {}
    for width in (320, 390, 1280):
        for scheme in ("light", "dark"):
            page.look(width, scheme, "reduce")
            assert page.run("document.documentElement.scrollWidth") == width
            page.picture(tmp_path / f"{width}-{scheme}.png")
            grounds[scheme] = page.run(ground)
    assert grounds["light"] == "rgb(255, 255, 255)"
    assert grounds["dark"] == "rgb(20, 23, 26)"
    page.run(
        "let s = document.getElementById('scheme'); s.value = 'light'; s.dispatchEvent(new Event('change'))"
    )
    assert page.run(ground) == grounds["light"]
    page.run("localStorage.clear()")


@pytest.mark.parametrize("scheme", ["light", "dark"])
@pytest.mark.parametrize("width", [390, 1280])
def test_it_looks_as_before(page: Browser, tmp_path: Path, width: int, scheme: str) -> None:
    """With the text of one block in it, since blocks that come together are shown together."""
    page.look(width, scheme, "reduce")
    fill(page, max_tokens=16)
    write(page)
    page.until(IDLE)
    page.until(f"{pane('ar', '.text')} !== ''")
    assert_looks_as_before(page, f"service-{width}-{scheme}", tmp_path)


def test_by_keyboard_alone(page: Browser) -> None:
    """Tab reaches everything in the order of the page and leaves it again; every focus is seen."""
    reachable = "[...document.querySelectorAll('a, button, input, select, textarea')]"
    shown = f"{reachable}.filter((one) => one.checkVisibility())"
    count = page.run(f"{shown}.length")
    order = []
    for _ in range(count):
        page.press("Tab")
        index, outline = page.run(
            f"[{shown}.indexOf(document.activeElement), "
            "getComputedStyle(document.activeElement).outlineStyle]"
        )
        order.append(index)
        assert outline == "solid"
    assert order == list(range(count))
    page.press("Tab")
    assert page.run("document.activeElement.tagName") in ("BODY", "A"), "the focus is trapped"
    page.run("document.activeElement.blur()")
    page.open(page.run("location.href"))
    page.press("Tab")
    page.press("Enter")
    page.until("document.activeElement.id === 'prompt'")
    page.run("document.activeElement.select()")
    page.write("Question: Sort 11, 61, 44, 74.\nAnswer:")
    page.press("Enter", CONTROL)
    page.until(f"{IDLE} && document.querySelector('[data-mode=ar]') !== null")
    assert page.run(pane("diffusion", ".text")).strip().startswith("11")


def test_what_a_screen_reader_is_told(page: Browser) -> None:
    write(page)
    page.until(IDLE)
    nodes = page.call("Accessibility.getFullAXTree")["nodes"]
    told = [
        (node["role"]["value"], node.get("name", {}).get("value", ""))
        for node in nodes
        if not node["ignored"]
    ]
    named = {"button", "combobox", "textbox", "spinbutton", "checkbox", "link", "image", "region", "group"}
    assert not [one for one in told if one[0] in named and not one[1]]
    roles = [role for role, _ in told]
    assert {"banner", "main", "contentinfo", "status"} <= set(roles)
    assert ("region", "Diffusion") in told
    assert ("region", "AR, token by token") in told
    assert [name for role, name in told if role == "image"] != []
    assert page.run("document.documentElement.lang") == "en"
    levels = page.run("[...document.querySelectorAll('h1, h2, h3')].map((one) => one.tagName).join(' ')")
    assert levels.startswith("H1 H2 ")
    assert "H3" not in levels
    assert page.run("document.querySelector('[role=status]').ariaLive ?? 'polite'") == "polite"


def test_quantiles(page: Browser) -> None:
    """As Prometheus computes them: linear within a bucket, the last finite bound beyond it."""
    exposition = "\n".join(
        ["# TYPE x histogram", 'x_bucket{le="0.1"} 2', 'x_bucket{le="0.5"} 6', 'x_bucket{le="+Inf"} 8']
    )
    found = page.run(
        f"""import('/page/exposition.js').then(({{ parseExposition, quantile, total }}) => {{
          const samples = parseExposition({exposition!r});
          const odd = parseExposition('y{{why="a\\\\"}}b",z="1"}} 2\\ny{{z="2"}} 1e1\\n');
          return [0.125, 0.5, 0.95].map((share) => quantile(samples, 'x', share))
            .concat([total(odd, 'y'), total(odd, 'none')]);
        }})"""
    )
    assert found == [pytest.approx(0.05), pytest.approx(0.3), 0.5, 12, None]
