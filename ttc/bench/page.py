"""The report page: one HTML file with tables and plots that opens without a network."""

from collections.abc import Sequence
from html import escape

from ttc.bench import svg, tables
from ttc.bench.schema import CaseRecord, Report, Speed

__all__ = ["page"]

_STYLE = """
body { font: 15px/1.5 system-ui, sans-serif; max-width: 72rem; margin: 2rem auto; padding: 0 1rem;
  color: #222; background: #fff }
table { border-collapse: collapse; font-size: 13px; margin: 1rem 0; display: block; overflow-x: auto }
th, td { padding: .2rem .6rem; text-align: left; border-bottom: 1px solid #ddd; white-space: nowrap }
svg { max-width: 100%; height: auto; font: 12px system-ui, sans-serif; fill: #333 }
svg .axis { stroke: #333; fill: none } svg .grid { stroke: #ddd; fill: none }
.broken td { color: #b00020 } figure { margin: 1.5rem 0 } figcaption { color: #555 }
.maps { display: flex; flex-wrap: wrap; gap: 1rem }
"""


def page(report: Report) -> str:
    """Return the whole page. Every figure in it stands in the report's JSON too."""
    broken = [case.name for case in report.cases if case.answers.broken]
    body = [
        "<h1>ttc bench</h1>",
        _table((), tables.context(report)),
        f"<p><strong>Broken: {escape(', '.join(broken))}.</strong></p>" if broken else "",
        "<h2>What was written</h2>",
        _table(tables.ANSWERS_HEAD, tables.answer_rows(report), broken),
        _tasks(report),
        "<h2>How fast</h2>",
        _table(tables.SPEED_HEAD, tables.speed_rows(report), broken),
        "<p>Speedup is tokens/NFE ÷ NFE cost ratio: an NFE's time, all else in it, in AR steps.</p>",
        *(_quality_against_speed(report, batch) for batch in report.work.batch_sizes),
        _over_batch(report),
        _over_threshold(report),
        _steps_per_block(report),
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
        cells = "".join(f"<td>{escape(cell)}</td>" for cell in row)
        lines.append(f'<tr class="broken">{cells}</tr>' if row[0] in marked else f"<tr>{cells}</tr>")
    return f"<table>{''.join(lines)}</table>"


def _figure(drawing: str, caption: str) -> str:
    return f"<figure>{drawing}<figcaption>{escape(caption)}</figcaption></figure>"


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
                [case.name.removeprefix("diffusion ") for case in cases],
                [_spread(speed) for speed in speeds],
                [case.answers.quality.interval for case in cases if case.answers.quality is not None],
            )
        )
    if not series:
        return ""
    label = "right answers, share" if with_quality else "nats per token under the context tower"
    drawing = svg.plot(series, "tokens per second", label, (0.0, 1.0) if with_quality else None)
    better = "Up and to the right is better." if with_quality else "Down and to the right is better."
    bars = "Bars: all repeats" + (", 95 % interval of the share." if with_quality else ".")
    return _figure(drawing, f"Quality against speed, batch {batch}. {better} {bars}")


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
    return _figure(svg.plot(series, "batch size", "tokens per second"), "Throughput over batch size.")


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
    drawing = svg.plot([svg.Series("diffusion", line, joined=True)], "threshold γ", "tokens per NFE")
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
    return _figure(drawing, "Steps that the first, second, … block took, over the answers that have one.")


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
        f'<div class="maps">{"".join(maps)}</div>'
    )
