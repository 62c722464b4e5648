"""A picture of a profile as SVG: one bar per phase, cut by layer kind."""

from html import escape
from pathlib import Path

from ttc.base.files import write_whole
from ttc.profiling.report import Part, Profile

__all__ = ["svg", "write_plot"]

_COLOURS = {
    "Mamba-2": "#4c78a8",
    "attention": "#f58518",
    "mixture of experts": "#54a24b",
    "plain MLP": "#b279a2",
    "head": "#e45756",
    "other": "#bab0ac",
}
_WIDTH, _ROW, _LEFT, _RIGHT = 760, 34, 130, 110


def svg(profile: Profile) -> str:
    """Return the picture: a bar is as long as its phase's call takes; what is not attributed is left white.

    Of the time that is, each kind gets its own with what the library spends on it.
    """
    longest = max(phase.seconds for phase in profile.phases)
    scale = (_WIDTH - _LEFT - _RIGHT) / longest
    kinds: list[str] = []
    rows: list[str] = []
    for number, phase in enumerate(profile.phases):
        top, x = 50 + number * _ROW, float(_LEFT)
        rows.append(f'<text x="{_LEFT - 8}" y="{top + 15}" text-anchor="end">{escape(phase.name)}</text>')
        for total in profile.by(phase, _group):
            kinds += [total.name] if total.name not in kinds else []
            width = total.seconds * scale
            label = f"{total.name}: {total.seconds * 1e3:.3g} ms"
            rows.append(
                f'<rect x="{x:.1f}" y="{top}" width="{width:.1f}" height="20" fill="{_COLOURS[total.name]}">'
                f"<title>{escape(label)}</title></rect>"
            )
            x += width
        end = _LEFT + phase.seconds * scale
        rows.append(
            f'<rect x="{_LEFT}" y="{top}" width="{end - _LEFT:.1f}" height="20" fill="none" stroke="#888"/>'
        )
        rows.append(f'<text x="{end + 6:.1f}" y="{top + 15}">{phase.seconds * 1e3:.3g} ms</text>')
    legend, x = [], float(_LEFT)
    for kind in kinds:
        legend.append(f'<rect x="{x:.0f}" y="22" width="12" height="12" fill="{_COLOURS[kind]}"/>')
        legend.append(f'<text x="{x + 16:.0f}" y="32">{escape(kind)}</text>')
        x += 34 + 7 * len(kind)
    height = 60 + len(profile.phases) * _ROW
    head = f"{profile.backend} on {profile.device}, batch {profile.batch}, context {profile.context}"
    return (
        f'<svg xmlns="http://www.w3.org/2000/svg" width="{_WIDTH}" height="{height}" '
        f'font-family="sans-serif" font-size="12"><rect width="100%" height="100%" fill="white"/>'
        f'<text x="{_LEFT}" y="14" font-weight="bold">{escape(head)}</text>'
        f"{''.join(legend)}{''.join(rows)}</svg>\n"
    )


def write_plot(profile: Profile, path: Path) -> None:
    """Write the picture to a file, whole or not at all. Raises `InputError` where it cannot."""
    write_whole(path, svg(profile))


def _group(part: Part) -> str:
    kind = part.label
    return kind if kind in _COLOURS else "other"
