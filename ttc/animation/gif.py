"""A GIF, drawn by Pillow: in a monospaced font of this system, or where none of those known is here in the
font that comes with Pillow; characters that the font lacks become boxes.
"""

import io
from typing import Any

from ttc.animation.layout import Sheet
from ttc.animation.look import BACKGROUND, HOLD_FRAMES, LOOKS, PROMPT, TITLE
from ttc.animation.timeline import State, Timeline
from ttc.base.distribution import install
from ttc.errors import MissingDependencyError

__all__ = ["draw"]

_CELL, _LINE, _FONT, _MARGIN = 9, 22, 15, 16
# Files as Pillow finds them in the folders of fonts: Linux, macOS, Windows.
_MONOSPACED = (
    "DejaVuSansMono.ttf",
    "LiberationMono-Regular.ttf",
    "NotoSansMono-Regular.ttf",
    "Menlo.ttc",
    "consola.ttf",
)


def draw(timeline: Timeline, sheet: Sheet, frame_seconds: float) -> bytes:
    """Return the content of the file. Raises `MissingDependencyError` without Pillow."""
    try:
        from PIL import Image, ImageDraw, ImageFont
    except ImportError:
        raise MissingDependencyError(
            f"a GIF needs the package Pillow; {install('gif')}, or write an .svg or .html"
        ) from None
    font = _font(ImageFont)
    size = (sheet.columns * _CELL + 2 * _MARGIN, int((sheet.rows + 1.5) * _LINE) + 2 * _MARGIN)
    images = []
    for frame in range(timeline.frames):
        image = Image.new("RGB", size, BACKGROUND)
        pen = ImageDraw.Draw(image)
        pen.text((_MARGIN, _MARGIN), timeline.headlines[frame], TITLE, font)
        for piece in sheet.pieces:
            look = LOOKS[State.GONE if piece.token is None else piece.token.at(frame)]
            ink = PROMPT if piece.token is None else look.ink
            x, y = _MARGIN + piece.column * _CELL, _MARGIN + int((piece.row + 1.5) * _LINE)
            if look.box is not None:
                pen.rectangle((x, y + 1, x + piece.cells * _CELL - 2, y + _LINE - 3), look.box)
            if ink is not None:
                for i, character in enumerate(piece.text):  # the font may not be monospaced, the grid is
                    pen.text((x + i * _CELL + _CELL / 2, y + 2), character, ink, font, anchor="ma")
        images.append(image)
    milliseconds = [round(1e3 * frame_seconds)] * (timeline.frames - 1)
    content = io.BytesIO()
    images[0].save(
        content,
        "GIF",
        save_all=True,
        append_images=images[1:],
        duration=[*milliseconds, round(1e3 * frame_seconds * HOLD_FRAMES)],
        loop=0,
    )
    return content.getvalue()


def _font(fonts: Any) -> Any:
    """Return a font, by Pillow's module of them."""
    for name in _MONOSPACED:
        try:
            return fonts.truetype(name, _FONT)
        except OSError:
            continue
    return fonts.load_default(_FONT)
