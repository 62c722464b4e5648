"""The one way in: a timeline to a file, whose name's ending says which kind."""

from pathlib import Path

from ttc.animation import gif, html, svg
from ttc.animation.layout import lay_out
from ttc.animation.timeline import Timeline
from ttc.base.files import check_writable, write_whole
from ttc.errors import InputError

__all__ = ["FORMATS", "check_format", "save_steps"]

FORMATS = (".svg", ".html", ".gif")
FRAME_SECONDS = 0.4


def check_format(path: Path) -> None:
    """Refuse a name that ends in none of `FORMATS`, and a file that cannot be written."""
    if path.suffix.lower() not in FORMATS:
        raise InputError(f"{path}: its ending is {path.suffix!r}; valid: {', '.join(FORMATS)}")
    check_writable(path)


def save_steps(path: Path, timeline: Timeline) -> None:
    """Write the animation; `InputError` where the file cannot be written or nothing was generated."""
    check_format(path)
    if not timeline.frames:
        raise InputError(f"{path}: nothing was generated, so there is nothing to draw; ask for more tokens")
    sheet = lay_out(timeline)
    content: bytes | str
    match path.suffix.lower():
        case ".svg":
            content = svg.draw(timeline, sheet, FRAME_SECONDS)
        case ".html":
            content = html.draw(timeline, sheet, FRAME_SECONDS)
        case _:
            content = gif.draw(timeline, sheet, FRAME_SECONDS)
    write_whole(path, content)
