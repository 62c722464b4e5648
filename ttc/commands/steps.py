"""Playing a generation on standard error: animated on a terminal, one line per step elsewhere; and recording
it for a picture.
"""

import contextlib
import time
from collections.abc import Callable, Generator, Iterator
from pathlib import Path

import click
from rich.live import Live
from tokenizers import Tokenizer

from ttc.animation.live import StepView, pieces
from ttc.commands.terminal import is_animated, stderr_console, wrote
from ttc.runtime.decoding.result import Event, Result

__all__ = ["EventStream", "play", "recording"]

EventStream = Generator[Event, None, Result | list[Result]]

# A picture stays at least this long, in seconds, so that a fast model can be watched.
_STEP_SECONDS, _TOKEN_SECONDS = 0.2, 0.03


def play(events: EventStream, view: StepView | None, keep: bool = False) -> Result:
    """Feed all events to the view and show it (None shows nothing); returns the generation's result.

    keep: leave the last picture on the screen.
    """
    if view is None:
        return _each(events, lambda event: None)
    console = stderr_console()
    if not is_animated(console):
        return _each(events, lambda event: click.echo(view.feed(event), err=True))
    with Live(view, console=console, auto_refresh=False, transient=not keep, redirect_stdout=False) as live:

        def show(event: Event) -> None:
            if view.open_block(event):
                live.refresh()
                time.sleep(_STEP_SECONDS)
            view.feed(event)
            live.refresh()
            is_last_of_block = event.committed and len(event.token_ids) > 1
            time.sleep(_TOKEN_SECONDS if event.committed and not is_last_of_block else _STEP_SECONDS)

        return _each(events, show)


@contextlib.contextmanager
def recording(
    file: Path | None, mode: str, prompt: str, tokenizer: Tokenizer | None
) -> Iterator[Callable[[EventStream], EventStream]]:
    """Yield what to send the events through: at the end the picture is in `file`; None records nothing."""
    if file is None:
        yield lambda events: events
        return
    from ttc.animation.save import save_steps
    from ttc.animation.timeline import Timeline, recorded

    piece = pieces(tokenizer)
    timeline = Timeline(mode, prompt, piece if tokenizer else lambda token: f" {piece(token)}")
    yield lambda events: recorded(events, timeline)
    save_steps(file, timeline)
    wrote(file)


def _each(events: EventStream, show: Callable[[Event], None]) -> Result:
    outcome: Result | list[Result] | None = None
    while outcome is None:
        try:
            show(next(events))
        except StopIteration as end:
            outcome = end.value
    assert isinstance(outcome, Result), "one prompt, one result"
    return outcome
