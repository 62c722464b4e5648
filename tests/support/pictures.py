"""What a page looks like, against a picture of it that somebody has looked at.

Pictures lie in `tests/pictures`, as greys at half the size. `TTC_WRITE_PICTURES=1 python -m pytest …` takes
them anew; look at them before they are committed.

Two browsers draw the edges of letters differently, so means of tiles are compared: a tile of the picture is
8 x 8 points of the page's half.
"""

import io
import os
import shutil
import subprocess
from pathlib import Path

import pytest
from PIL import Image, ImageChops

from tests.support.chromium import Browser
from tests.support.tolerances import PICTURE_LEVELS, PICTURE_SHARE

PICTURES = Path(__file__).parents[1] / "pictures"
TILE = 8
FONT = "DejaVu Sans Mono"
# One font for every machine; nothing moves, and what differs from run to run is left blank.
_STYLE = f"""
* {{ font-family: "{FONT}" !important; transition: none !important; animation: none !important;
  caret-color: transparent !important }}
.figures dd, #head {{ visibility: hidden }}
#service {{ display: none }}
"""


def differing(one: Image.Image, other: Image.Image) -> float:
    """The share of tiles whose mean greys differ by more than `PICTURE_LEVELS` of 256; 1 for other sizes."""
    if one.size != other.size:
        return 1.0
    size = (max(1, one.width // TILE), max(1, one.height // TILE))
    tiles = [image.resize(size, Image.Resampling.BOX) for image in (one, other)]
    greys = ImageChops.difference(*tiles).histogram()
    return sum(greys[PICTURE_LEVELS + 1 :]) / sum(greys)


def assert_looks_as_before(browser: Browser, name: str, tmp_path: Path) -> None:
    """Ask that the page in the browser looks as the picture `name` does."""
    if (
        FONT
        not in subprocess.run(["fc-list", ":", "family"], capture_output=True, text=True, check=True).stdout
    ):
        pytest.skip(f"the font {FONT} is not installed, with which the pictures were taken")
    # Not a `style` element: the service's page allows none that is not its own.
    browser.run(
        f"{{const s = new CSSStyleSheet(); s.replaceSync(`{_STYLE}`); document.adoptedStyleSheets = [s]}}"
    )
    browser.run("document.fonts.ready.then(() => true)")
    browser.picture(tmp_path / "now.png")
    shot = Image.open(tmp_path / "now.png").convert("L")
    now = shot.resize((shot.width // 2, shot.height // 2), Image.Resampling.BOX)
    kept = PICTURES / f"{name}.png"
    if os.environ.get("TTC_WRITE_PICTURES"):
        made = io.BytesIO()
        now.quantize(16).save(made, "PNG", optimize=True)
        kept.write_bytes(made.getvalue())
        return
    now.save(tmp_path / f"{name}.png")
    share = differing(Image.open(kept).convert("L"), now)
    assert share <= PICTURE_SHARE, f"{share:.1%} of {kept} look otherwise; see {tmp_path / name}.png"


def _fonts() -> str:
    """The families that fontconfig knows; nothing where there is none."""
    if shutil.which("fc-list") is None:
        return ""
    return subprocess.run(["fc-list", ":", "family"], capture_output=True, text=True, check=True).stdout
