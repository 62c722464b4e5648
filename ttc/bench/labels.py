"""Where the labels of points stand so that none lies on another, or on a point."""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass

__all__ = ["Label", "placed"]

# Of the plots' font, a little generous: the font of the reader is not known here.
_CHARACTER, _HEIGHT = 7.0, 14.0
_POINT = 5.0


@dataclass(frozen=True, slots=True)
class Label:
    """A text with its place.

    Attributes:
        text: what it says.
        x, y: where its line begins, or ends.
        anchor: "start" or "end".
        point: what it names, in pixels.
        is_far: whether a line should lead from it to its point.
    """

    text: str
    x: float
    y: float
    anchor: str
    point: tuple[float, float]
    is_far: bool

    @property
    def box(self) -> tuple[float, float, float, float]:
        """Left, top, right, bottom."""
        width = len(self.text) * _CHARACTER
        left = self.x if self.anchor == "start" else self.x - width
        return left, self.y - _HEIGHT + 3, left + width, self.y + 3


def placed(
    wanted: Sequence[tuple[str, tuple[float, float]]],
    points: Iterable[tuple[float, float]],
    frame: tuple[float, float, float, float],
) -> list[Label]:
    """Return a place for every label: beside its point where that is free, else above or below, further and
    further.

    Args:
        wanted: text and point.
        points: all points of the plot.
        frame: left, top, right, bottom of where labels may stand.
    """
    taken = [(x - _POINT, y - _POINT, x + _POINT, y + _POINT) for x, y in points]
    labels: list[Label] = []
    for text, point in sorted(wanted, key=lambda item: (item[1][1], item[1][0])):
        label = next(
            (
                label
                for label in _candidates(text, point)
                if _inside(label.box, frame) and not any(_meet(label.box, box) for box in taken)
            ),
            None,
        )
        if label is None:  # no room at all: the table has the figure
            continue
        labels.append(label)
        taken.append(label.box)
    return labels


def _candidates(text: str, point: tuple[float, float]) -> Iterable[Label]:
    x, y = point
    for distance in range(12):
        for down in (1, -1) if distance else (1,):
            at = y + 4 + down * distance * 0.75 * _HEIGHT
            for side, anchor in ((9, "start"), (-9, "end")):
                yield Label(text, x + side, at, anchor, point, distance > 1)


def _inside(box: tuple[float, ...], frame: tuple[float, ...]) -> bool:
    return box[0] >= frame[0] and box[1] >= frame[1] and box[2] <= frame[2] and box[3] <= frame[3]


def _meet(a: tuple[float, ...], b: tuple[float, ...]) -> bool:
    return a[0] < b[2] and b[0] < a[2] and a[1] < b[3] and b[1] < a[3]
