"""Playing a generation on standard error: animated on a terminal, one line per step elsewhere."""

import time
from collections.abc import Callable, Generator

import click
from rich.live import Live

from ttc.commands.terminal import is_animated, stderr_console
from ttc.live import StepView
from ttc.runtime.result import Event, Result

__all__ = ["Generation", "play"]

Generation = Generator[Event, None, Result | list[Result]]

# A picture stays at least this long, in seconds, so that a fast model can be watched.
_STEP_SECONDS, _TOKEN_SECONDS = 0.2, 0.03


def play(events: Generation, view: StepView, keep: bool = False) -> Result:
    """Feed all events to the view and show it; returns the generation's result.

    keep: leave the last picture on the screen.
    """
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


def _each(events: Generation, show: Callable[[Event], None]) -> Result:
    outcome: Result | list[Result] | None = None
    while outcome is None:
        try:
            show(next(events))
        except StopIteration as end:
            outcome = end.value
    assert isinstance(outcome, Result), "one prompt, one result"
    return outcome
