"""Colours and times that the pictures share."""

from dataclasses import dataclass

from ttc.animation.timeline import State

__all__ = ["BACKGROUND", "HOLD_FRAMES", "LOOKS", "PROMPT", "TITLE", "Look"]

# The last picture stays this many frames before the animation starts again.
HOLD_FRAMES = 8
BACKGROUND, TITLE, PROMPT = "#12161c", "#7fb3d5", "#8a94a0"


@dataclass(frozen=True, slots=True)
class Look:
    """Ink of the text and colour of the box behind it; None draws nothing."""

    ink: str | None
    box: str | None


LOOKS: dict[State, Look] = {
    State.MASKED: Look(None, "#2e4756"),
    State.FRESH: Look("#10220f", "#8ae234"),
    State.FILLED: Look("#8ae234", None),
    State.SETTLED: Look("#e6e9ec", None),
    State.GONE: Look(None, None),
}
