"""A player as one HTML file: play, pause, and go through the steps one by one. Nothing is fetched."""

import json

from ttc.animation.layout import Sheet, lay_out
from ttc.animation.look import BACKGROUND, LOOKS, PROMPT, TITLE
from ttc.animation.timeline import Timeline

__all__ = ["draw"]

# Cells of a row on a phone.
_NARROW = 40

_PAGE = """<!doctype html>
<html lang="en"><head><meta charset="utf-8"><title>ttc: a text being written</title>
<meta name="viewport" content="width=device-width, initial-scale=1">
<style>
body {{ margin: 1rem auto; padding: 0 .5rem; width: fit-content; max-width: 100%; box-sizing: border-box;
background: {background}; color: {title};
  font: 15px/1.5 ui-monospace, Menlo, Consolas, monospace }}
#sheet {{ position: relative }} #head {{ min-height: 2lh; max-width: 40ch }}
@media (min-width: 48rem) {{ #head {{ min-height: 1lh; max-width: none }} }}
#sheet span {{ position: absolute; white-space: pre; border-radius: 2px }}
.prompt {{ color: {prompt} }}
{looks}
#controls {{ display: flex; gap: 1ch; margin: 1rem 0 }} #place {{ flex: 1; min-width: 0 }}
button {{ font: inherit; min-height: 2.75rem; min-width: 2.75rem }} @media (max-width: 48rem) {{ body {{
font-size: 14px }} }} </style></head><body> <div id="head">&nbsp;</div> <div id="controls"><button
id="play">pause</button><button id="back" aria-label="one step back">◀</button> <button id="next"
aria-label="one step on">▶</button> <input id="place" type="range" min="0" value="0" aria-label="frame"></div>
<div id="sheet"></div> <script type="application/json" id="data">{data}</script> <script> const data =
JSON.parse(document.getElementById("data").textContent); const byId = id => document.getElementById(id); const
sheet = byId("sheet"), place = byId("place"), last = data.heads.length - 1; place.max = last; let frame = 0,
timer = null, spans = []; const wide = matchMedia("(min-width: 48rem)"); function layOut() {{
  const {{columns, rows, pieces}} = wide.matches ? data.wide : data.narrow;
  sheet.style.cssText = `width:${{columns}}ch;height:${{rows}}lh`;
  sheet.replaceChildren();
  spans = pieces.map(([row, column, cells, text, changes]) => {{
    const span = document.createElement("span");
    span.style.cssText = `top:${{row}}lh;left:${{column}}ch;width:${{cells}}ch`;
    span.textContent = text;
    if (!changes) span.className = "prompt";
    sheet.append(span);
    return [span, changes];
  }});
  show(frame);
}}
function show(at) {{
  frame = Math.max(0, Math.min(last, at));
  place.value = frame;
  byId("head").textContent = data.heads[frame] || "";
  for (const [span, changes] of spans) {{
    if (!changes) continue;
    let state = "gone";
    for (const [begin, next] of changes) if (begin <= frame) state = next;
    span.className = state;
  }}
}}
function pause() {{ clearInterval(timer); timer = null; byId("play").textContent = "play"; }}
function play() {{
  if (frame === last) show(0);
  timer = setInterval(() => frame < last ? show(frame + 1) : pause(), data.milliseconds);
  byId("play").textContent = "pause";
}}
byId("play").onclick = () => timer ? pause() : play();
byId("back").onclick = () => {{ pause(); show(frame - 1); }};
byId("next").onclick = () => {{ pause(); show(frame + 1); }};
place.oninput = () => {{ pause(); show(Number(place.value)); }};
document.onkeydown = event => {{
  if (event.target === place) return;
  if (event.key === "ArrowLeft") {{ pause(); show(frame - 1); }}
  if (event.key === "ArrowRight") {{ pause(); show(frame + 1); }}
}};
wide.onchange = layOut;
layOut();
if (matchMedia("(prefers-reduced-motion: reduce)").matches) {{ pause(); show(last); }} else play();
</script></body></html>
"""


def draw(timeline: Timeline, sheet: Sheet, frame_seconds: float) -> str:
    """Return the whole file."""
    content = {
        "heads": timeline.headlines,
        "wide": _placed(sheet),
        "narrow": _placed(lay_out(timeline, _NARROW)),
        "milliseconds": round(1e3 * frame_seconds),
    }
    looks = [
        f".{state} {{ color: {look.ink or 'transparent'}; background: {look.box or 'transparent'} }}"
        for state, look in LOOKS.items()
    ]
    return _PAGE.format(
        background=BACKGROUND,
        title=TITLE,
        prompt=PROMPT,
        looks="\n".join(looks),
        # A "<" would let the model's text end the script element.
        data=json.dumps(content, ensure_ascii=False).replace("<", "\\u003c"),
    )


def _placed(sheet: Sheet) -> dict[str, object]:
    """Return a sheet for JSON."""
    pieces = [
        [piece.row, piece.column, piece.cells, piece.text, piece.token and piece.token.changes]
        for piece in sheet.pieces
    ]
    return {"columns": sheet.columns, "rows": sheet.rows, "pieces": pieces}
