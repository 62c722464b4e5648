"""An animated SVG: text and boxes whose colours change by CSS key frames. No script, so that it moves
wherever a picture is shown; who asks for less motion sees the end.
"""

from html import escape

from ttc.animation.layout import Piece, Sheet
from ttc.animation.look import BACKGROUND, HOLD_FRAMES, LOOKS, PROMPT, TITLE
from ttc.animation.timeline import State, Timeline

__all__ = ["draw"]

_CELL, _LINE, _FONT, _MARGIN = 9.0, 22.0, 15, 16.0
Changes = tuple[tuple[int, State], ...]


def draw(timeline: Timeline, sheet: Sheet, frame_seconds: float) -> str:
    """Return the whole file."""
    frames = timeline.frames + HOLD_FRAMES
    kinds: dict[Changes, int] = {}
    for piece in sheet.pieces:
        if piece.token is not None:
            kinds.setdefault(tuple(piece.token.changes), len(kinds))
    duration = f"{frames * frame_seconds:g}s"
    rules = [rule for changes, kind in kinds.items() for rule in _rules(changes, kind, frames, duration)]
    for at in range(timeline.frames):
        rules += _title_rules(at, timeline.frames, frames, duration)
    width = sheet.columns * _CELL + 2 * _MARGIN
    height = (sheet.rows + 1.5) * _LINE + 2 * _MARGIN
    body = [_piece(piece, kinds) for piece in sheet.pieces]
    titles = [
        f'<text class="title h{at}" x="{_MARGIN}" y="{_MARGIN + _FONT}">{_text(line)}</text>'
        for at, line in enumerate(timeline.headlines)
    ]
    style = (
        f"text{{font:{_FONT}px ui-monospace,Menlo,Consolas,monospace}}"
        f".title{{fill:{TITLE}}}.prompt{{fill:{PROMPT}}}" + "".join(rules)
        + "@media (prefers-reduced-motion:reduce){*{animation:none!important}}"
    )  # fmt: skip
    return (
        f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {width:g} {height:g}" '
        f'width="{width:g}" role="img">'
        f"<title>A text being written, block by block</title><style>{style}</style>"
        f'<rect width="100%" height="100%" rx="8" fill="{BACKGROUND}"/>'
        f"{''.join(titles)}{''.join(body)}</svg>\n"
    )


def _piece(piece: Piece, kinds: dict[Changes, int]) -> str:
    x, y = _MARGIN + piece.column * _CELL, _MARGIN + (piece.row + 1.5) * _LINE
    length = piece.cells * _CELL
    words = (
        f'x="{x:g}" y="{y + _FONT:g}" textLength="{length:g}" lengthAdjust="spacingAndGlyphs">'
        f"{_text(piece.text)}</text>"
    )
    if piece.token is None:
        return f'<text class="prompt" {words}'
    kind = kinds[tuple(piece.token.changes)]
    box = f'<rect class="b{kind}" x="{x:g}" y="{y + 1:g}" width="{length:g}" height="{_LINE - 3:g}" rx="2"/>'
    return f'{box}<text class="t{kind}" {words}'


def _text(text: str) -> str:
    """Escaped, its blanks such that no viewer drops or joins them."""
    return escape(text).replace(" ", "\u00a0")


def _rules(changes: Changes, kind: int, frames: int, duration: str) -> list[str]:
    """Key frames of the box and of the ink of all tokens with the same changes."""
    inks = ["0%{fill:transparent}"]
    boxes = ["0%{fill:transparent}"]
    for frame, state in changes:
        share, look = f"{100 * frame / frames:.3f}%", LOOKS[state]
        inks.append(f"{share}{{fill:{look.ink or 'transparent'}}}")
        boxes.append(f"{share}{{fill:{look.box or 'transparent'}}}")
    last = LOOKS[changes[-1][1]]
    return [
        f"@keyframes t{kind}{{{''.join(inks)}}}@keyframes b{kind}{{{''.join(boxes)}}}",
        f".t{kind}{{fill:{last.ink or 'transparent'};animation:t{kind} {duration} step-end infinite}}",
        f".b{kind}{{fill:{last.box or 'transparent'};animation:b{kind} {duration} step-end infinite}}",
    ]


def _title_rules(at: int, shown: int, frames: int, duration: str) -> list[str]:
    """Return the rules that show a headline in its own frame; the last one stays."""
    begin, is_last = 100 * at / frames, at == shown - 1
    steps = ["0%{opacity:0}", f"{begin:.3f}%{{opacity:1}}"]
    if not is_last:
        steps.append(f"{100 * (at + 1) / frames:.3f}%{{opacity:0}}")
    return [
        f"@keyframes h{at}{{{''.join(steps if at else steps[1:])}}}",
        f".h{at}{{opacity:{int(is_last)};animation:h{at} {duration} step-end infinite}}",
    ]
