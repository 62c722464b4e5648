"""The report page: one HTML file with tables and plots that opens without a network."""

from collections.abc import Sequence
from html import escape
from itertools import zip_longest

from ttc.bench import svg, tables
from ttc.bench.schema import CaseRecord, Report, Speed

__all__ = ["page"]

# light-dark() follows the reader's system; a browser without it shows the light page.
_STYLE = """
:root { color-scheme: light dark; --ground: #fff; --ink: #16191d; --soft: #4d5661; --edge: #d5dae0; --wrong:
#9b1c1c } @supports (color: light-dark(red, blue)) { :root {
  --ground: light-dark(#fff, #14171a); --ink: light-dark(#16191d, #eceff1); --soft: light-dark(#4d5661,
  #a9b4be);
  --edge: light-dark(#d5dae0, #3a424a); --wrong: light-dark(#9b1c1c, #ffb0a8) } }
body { font: 15px/1.5 system-ui, sans-serif; max-width: 76rem; margin: 2rem auto; padding: 0 1rem;
  color: var(--ink); background: var(--ground) }
.wide { overflow-x: auto; margin: 1rem 0 } table { border-collapse: collapse; font-size: 13px }
th, td { padding: .25rem .6rem; text-align: right; border-bottom: 1px solid var(--edge); white-space: nowrap }
th { vertical-align: bottom; white-space: normal; max-width: 6rem } td:first-child, th:first-child, .text td {
text-align: left } td:first-child, th:first-child { position: sticky; left: 0; background: var(--ground) }
td:first-child { white-space: nowrap } .text td:last-child { white-space: normal; overflow-wrap: anywhere }
.text td:first-child { color: var(--soft) } .why { text-align: left; white-space: normal; min-width: 9rem }
svg { max-width: 100%; height: auto; font: 12px system-ui, sans-serif; fill: var(--ink) } svg text {
paint-order: stroke; stroke: var(--ground); stroke-width: 3px; stroke-linejoin: round } svg .axis { stroke:
var(--ink); fill: none } svg .grid { stroke: var(--edge); fill: none } svg .lead { stroke: var(--soft);
stroke-width: .7; fill: none } svg .cell { stroke: var(--edge); stroke-width: .5 } .broken td { color:
var(--wrong) } figure { margin: 1rem 0; min-width: 0 } figcaption, dt { color: var(--soft) } .plots { display:
grid; grid-template-columns: repeat(auto-fill, minmax(min(100%, 27rem), 1fr)); gap: 1rem 2rem } .legend {
display: flex; flex-wrap: wrap; gap: .2rem 1rem; list-style: none; margin: 0; padding: 0; font-size: 13px }
.legend i { display: inline-block; width: .7em; height: .7em; border-radius: 50%; margin-right: .4em } details
{ margin: 1rem 0 } dt { font-weight: 600; margin-top: .4rem } dd { margin: 0 }
"""
# What the columns of the tables say; docs/bench.md has the keys of the JSON beside them.
_COLUMNS = {
    "right, of AR": "right answers, and as a share of AR's",
    "exact match AR": "answers whose tokens are AR's",
    "nats/token": "negative log likelihood of the text under the model's own context tower",
    "repetition": "answers that go round in circles",
    "tokens/call": "new tokens for each call of the context tower",
    "NFE, tokens/NFE": "passes of the denoiser (number of function evaluations), and new tokens for each",
    "steps/block": "passes for the first and for the last block, on average",
    "tokens/s, min–max": "median of the repeats, slowest and fastest",
    "speedup": "tokens per second over AR's: tokens/NFE ÷ NFE cost ratio",
    "NFE cost ratio": "time for a pass, all else of a generation counted in, over the time of an AR token",
    "latency": "from the call to the last token; latency speedup is AR's over this one",
    "first block, between": "from the call to the first block, from block to block: p50 and p95",
}


def page(report: Report) -> str:
    """Return the whole page. Every figure in it stands in the report's JSON too."""
    broken = [case.name for case in report.cases if case.answers.broken]
    body = [
        "<h1>ttc bench</h1>",
        _table((), tables.context(report)),
        _columns(),
        f"<p><strong>Broken: {escape(', '.join(broken))}.</strong></p>" if broken else "",
        "<h2>What was written</h2>",
        _table(tables.ANSWERS_HEAD, tables.answer_rows(report), broken),
        _tasks(report),
        "<h2>How fast</h2>",
        _table(tables.SPEED_HEAD, tables.speed_rows(report), broken),
        '<div class="plots">',
        *(_quality_against_speed(report, batch) for batch in report.work.batch_sizes),
        _over_batch(report),
        _over_threshold(report),
        _steps_per_block(report),
        "</div>",
        _commit_order(report),
    ]
    return (
        '<!doctype html>\n<html lang="en"><head><meta charset="utf-8"><title>ttc bench</title>'
        '<meta name="viewport" content="width=device-width, initial-scale=1">'
        f"<style>{_STYLE}</style></head>\n"
        f"<body>\n{chr(10).join(part for part in body if part)}\n</body></html>\n"
    )


def _table(head: Sequence[str], rows: Sequence[Sequence[str]], marked: Sequence[str] = ()) -> str:
    top = "".join(f"<th>{escape(cell)}</th>" for cell in head)
    lines = [f"<tr>{top}</tr>"] if head else []
    for row in rows:
        cells = "".join(
            f'<td class="why">{escape(cell)}</td>' if name == "verdict" else f"<td>{escape(cell)}</td>"
            for name, cell in zip_longest(head, row)
        )
        lines.append(f'<tr class="broken">{cells}</tr>' if row[0] in marked else f"<tr>{cells}</tr>")
    kind = "" if head else ' class="text"'
    return f'<div class="wide"><table{kind}>{"".join(lines)}</table></div>'


def _columns() -> str:
    items = "".join(f"<dt>{escape(name)}</dt><dd>{escape(what)}</dd>" for name, what in _COLUMNS.items())
    return f"<details><summary>What the columns say</summary><dl>{items}</dl></details>"


def _figure(drawing: str, caption: str, legend: str = "") -> str:
    return f"<figure>{drawing}{legend}<figcaption>{escape(caption)}</figcaption></figure>"


def _tasks(report: Report) -> str:
    head, rows = tables.task_rows(report)
    return _table(head, rows) if rows else ""


def _at(case: CaseRecord, batch: int) -> Speed:
    return next(speed for speed in case.speed if speed.batch == batch)


def _quality_against_speed(report: Report, batch: int) -> str:
    kinds = dict.fromkeys(case.mode for case in report.cases)
    with_quality = report.cases[0].answers.quality is not None
    series = []
    for kind in kinds:
        cases = [case for case in report.cases if case.mode == kind]
        heights = [_height(case) for case in cases]
        if any(height is None for height in heights):
            continue
        speeds = [_at(case, batch) for case in cases]
        series.append(
            svg.Series(
                kind,
                [(s.tokens_per_second, h) for s, h in zip(speeds, heights, strict=True) if h is not None],
                [case.name.removeprefix("diffusion ") for case in cases] if len(cases) > 1 else (),
                [_spread(speed) for speed in speeds],
                [case.answers.quality.interval for case in cases if case.answers.quality is not None],
                color=svg.MODE_COLORS.get(kind),
            )
        )
    if not series:
        return ""
    label = "right answers, share" if with_quality else "nats per token under the context tower"
    drawing = svg.plot(series, "tokens per second", label, (0.0, 1.0) if with_quality else None)
    better = "Up and to the right is better." if with_quality else "Down and to the right is better."
    bars = "Bars: all repeats" + (", 95 % interval of the share." if with_quality else ".")
    return _figure(drawing, f"Quality against speed, batch {batch}. {better} {bars}", svg.legend(series))


def _spread(speed: Speed) -> tuple[float, float]:
    """Return tokens per second of the slowest and the fastest repeat."""
    return speed.tokens / max(speed.seconds_of_repeats), speed.tokens / min(speed.seconds_of_repeats)


def _height(case: CaseRecord) -> float | None:
    quality = case.answers.quality
    return case.answers.context_nll if quality is None else quality.accuracy


def _over_batch(report: Report) -> str:
    if len(report.work.batch_sizes) < 2:
        return ""
    series = [
        svg.Series(
            case.name,
            sorted((float(speed.batch), speed.tokens_per_second) for speed in case.speed),
            joined=True,
        )
        for case in report.cases
    ]
    drawing = svg.plot(series, "batch size", "tokens per second")
    return _figure(drawing, "Throughput over batch size.", svg.legend(series))


def _over_threshold(report: Report) -> str:
    """Return the cases that share the base's steps and block size."""
    swept = [case for case in report.cases if case.mode == "diffusion" and case.threshold is not None]
    if not swept:
        return ""
    base = swept[0]
    points = [
        (case.threshold, case.answers.tokens_per_nfe)
        for case in swept
        if (case.steps, case.block_size) == (base.steps, base.block_size)
    ]
    line = sorted((x, y) for x, y in points if x is not None and y is not None)
    if len(line) < 2:
        return ""
    series = svg.Series("diffusion", line, joined=True, color=svg.MODE_COLORS["diffusion"])
    drawing = svg.plot([series], "threshold γ", "tokens per NFE")
    return _figure(
        drawing, f"Tokens per denoiser evaluation, {base.steps} steps, blocks of {base.block_size}."
    )


def _steps_per_block(report: Report) -> str:
    series = [
        svg.Series(
            case.name, [(float(n), s) for n, s in enumerate(case.answers.steps_per_block, 1)], joined=True
        )
        for case in report.cases
        if case.mode == "diffusion" and len(case.answers.steps_per_block) > 1
    ]
    if not series:
        return ""
    drawing = svg.plot(series, "block of the answer", "denoise steps, mean")
    told = "Steps that the first, second, … block took, over the answers that have one."
    return _figure(drawing, told, svg.legend(series))


def _commit_order(report: Report) -> str:
    maps = []
    for case in report.cases:
        if case.answers.commit_order:
            drawing = svg.heat_map(case.answers.commit_order, "position in the block", "step")
            tau = case.answers.left_to_right
            said = "" if tau is None else f", Kendall's τ with the position {tau:.2f}"
            maps.append(_figure(drawing, f"{case.name}{said}"))
    if not maps:
        return ""
    return (
        "<h2>In which order a block fills</h2>\n"
        "<p>Share of the blocks that committed a position at a step.</p>"
        f'<div class="plots">{"".join(maps)}</div>'
    )
