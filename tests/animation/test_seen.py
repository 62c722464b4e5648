"""The player as a browser shows it, on a phone and on a desk."""

from collections.abc import Iterator
from pathlib import Path

import pytest
from PIL import Image, ImageChops

from tests.support.chromium import CHROMIUM, Browser, browsing
from tests.support.command_line import run
from tests.support.pictures import PICTURES, assert_looks_as_before, differing
from tests.support.tolerances import PICTURE_SHARE


@pytest.fixture(scope="module")
def browser(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Browser]:
    if CHROMIUM is None:
        pytest.skip("no Chromium is installed")
    with browsing(tmp_path_factory.mktemp("profile")) as found:
        yield found


@pytest.fixture(scope="module")
def address(tmp_path_factory: pytest.TempPathFactory) -> str:
    """Of the player of a story."""
    file = tmp_path_factory.mktemp("player") / "steps.html"
    done = run("generate", "miniature", "--example", "story", "--save-steps", file)
    assert done.exit_code == 0, done.stderr
    return file.as_uri()


@pytest.mark.parametrize("width", [390, 1280])
def test_the_player_looks_as_before(browser: Browser, address: str, tmp_path: Path, width: int) -> None:
    """In the middle of a block; and nothing of it stands out at the side."""
    browser.look(width, motion="reduce")
    browser.open(address)
    browser.run("show(2)")
    assert browser.complaints == []
    assert browser.run("document.documentElement.scrollWidth") <= width
    assert_looks_as_before(browser, f"player-{width}", tmp_path)


def test_what_has_moved_is_seen() -> None:
    """The comparison itself: a line of text lower, or another ground, is not the same picture."""
    kept = Image.open(PICTURES / "bench-1280-light.png").convert("L")
    assert differing(kept, kept) == 0
    assert differing(kept, ImageChops.offset(kept, 0, 8)) > PICTURE_SHARE
    assert differing(kept, kept.point(lambda grey: grey - 40)) > PICTURE_SHARE
    assert differing(kept, kept.crop((0, 0, kept.width, kept.height - 8))) == 1
