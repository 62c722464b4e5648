"""What the commands share: consoles, JSON on standard output, progress, sizes in words."""

import contextlib
import json
import os
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from ttc.base.quoting import escaped

if TYPE_CHECKING:
    from rich.console import Console

__all__ = [
    "EXIT_INTERRUPTED",
    "Several",
    "coloured",
    "columns",
    "decimal_size",
    "duration",
    "echo",
    "folder_bytes",
    "is_animated",
    "loading",
    "paragraph",
    "progress",
    "size",
    "stderr_console",
    "verdict",
    "waiting",
    "write_json",
    "wrote",
]

EXIT_INTERRUPTED = 130


class Several(click.ParamType[tuple[Any, ...]]):
    """Numbers with commas between."""

    def __init__(self, kind: type[Any]) -> None:
        self.kind, self.name = kind, "numbers"

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> Any:
        """Return the numbers of a text; a default, which is a tuple, as it is."""
        if isinstance(value, tuple):
            return value
        try:
            return tuple(self.kind(word) for word in value.split(","))
        except ValueError:
            self.fail(f"{value!r} is not a list of numbers with commas between, like 1,8,16", param, ctx)


def stderr_console() -> "Console":
    """Return a console on standard error."""
    from rich.console import Console

    return Console(stderr=True, highlight=False)


def columns(rows: Iterable[Sequence[str]], head: Sequence[str] | None = None) -> None:
    """Write rows of text to standard output, in columns: fitted to a terminal, one line per row elsewhere.
    What files say is among them, so what is not printable is escaped.

    head: names of the columns; without it the first column is taken for names.
    """
    from rich.console import Console

    from ttc.commands.tables import fitted

    console = Console(highlight=False)
    width = console.width if is_animated(console) else None
    cells = [tuple(map(escaped, row)) for row in rows]
    for line in fitted(cells, None if head is None else tuple(map(escaped, head)), width):
        click.echo(coloured(line, bold=True) if line.is_head else line)


def coloured(text: str, **style: Any) -> str:
    """Return a text with colours (`click.style`), unless NO_COLOR says no; what is no terminal gets none."""
    return text if os.environ.get("NO_COLOR") else click.style(text, **style)


def verdict(passed: bool, words: tuple[str, str] = ("passed", "FAILED")) -> str:
    """Return one of two words in green or red."""
    return coloured(words[not passed], fg="green" if passed else "red", bold=True)


def echo(line: str = "", *, err: bool = False, nl: bool = True) -> None:
    """Write a line that may quote a file or a name: what is not printable in it is escaped."""
    click.echo(escaped(line), err=err, nl=nl)


def paragraph(line: str) -> None:
    """Write a line that may be long and may quote a file: fitted to a terminal, as it is elsewhere."""
    from rich.console import Console

    from ttc.commands.tables import wrapped

    console = Console(highlight=False)
    for part in wrapped(escaped(line), console.width if is_animated(console) else None):
        click.echo(part)


def wrote(path: Path) -> None:
    """Say which file was written, on standard error."""
    echo(f"wrote {path}", err=True)


def write_json(value: Mapping[str, Any]) -> None:
    """Write the one JSON object that `--json` promises to standard output."""
    click.echo(json.dumps(value, allow_nan=False, indent=2))


def is_animated(console: "Console") -> bool:
    """Return whether a picture on this console can be redrawn; forced colours make no terminal of a file."""
    return console.file.isatty() and console.is_terminal and not console.is_dumb_terminal


@contextlib.contextmanager
def progress(first: str, quiet: bool = False) -> Iterator[Callable[[str], None]]:
    """Show what is being done: a moving bar on a terminal, lines elsewhere, nothing if `quiet`.

    Gives the function to call before each piece of work; `first` is shown until then, on a terminal only.
    """
    console = stderr_console()
    if quiet:
        yield lambda line: None
    elif not is_animated(console):
        yield lambda line: echo(line, err=True)
    else:
        from rich.progress import BarColumn, Progress, SpinnerColumn, TextColumn, TimeElapsedColumn

        what = TextColumn("{task.description}", markup=False)
        columns = (SpinnerColumn(), BarColumn(24), TimeElapsedColumn(), what)
        with Progress(*columns, console=console, transient=True) as bar:
            task = bar.add_task(first, total=None)
            yield lambda line: bar.update(task, description=escaped(line))


def waiting(what: str, quiet: bool = False) -> contextlib.AbstractContextManager[object]:
    """Show `what` while something takes its time: on a terminal only, and not if `quiet`."""
    return progress(what, quiet or not is_animated(stderr_console()))


@contextlib.contextmanager
def loading(what: str, quiet: bool = False) -> Iterator[Callable[[int, int], None]]:
    """As `waiting`; gives a function to call with (bytes done, bytes in all), which makes it a bar."""
    console = stderr_console()
    if quiet or not is_animated(console):
        yield lambda done, total: None
        return
    from rich.progress import (
        BarColumn,
        DownloadColumn,
        Progress,
        SpinnerColumn,
        TextColumn,
        TimeElapsedColumn,
    )

    shown = TextColumn("{task.description}", markup=False)
    columns = (SpinnerColumn(), BarColumn(24), DownloadColumn(True), TimeElapsedColumn(), shown)
    with Progress(*columns, console=console, transient=True) as bar:
        task = bar.add_task(what, total=None)
        yield lambda done, total: bar.update(task, completed=done, total=total)


def duration(seconds: float) -> str:
    """Return a time in the unit that it is read in, with three digits that say something."""
    value, unit = next(
        (
            (seconds * scale, unit)
            for scale, unit in ((1, "s"), (1e3, "ms"), (1e6, "µs"))
            if seconds * scale >= 1
        ),
        (seconds * 1e6, "µs"),
    )
    return f"{value:.{2 if value < 10 else 1 if value < 100 else 0}f} {unit}"


def decimal_size(count: float) -> str:
    """Return a number of bytes in words, in powers of ten, as memories of GPUs are told."""
    scale, unit = next(((s, u) for s, u in ((1e9, "GB"), (1e6, "MB"), (1e3, "kB")) if count >= s), (1, "B"))
    return f"{count / scale:.{0 if unit == 'B' else 1}f} {unit}"


def size(count: int) -> str:
    """Return a number of bytes in words."""
    value, unit = float(count), "B"
    for unit in ("B", "KiB", "MiB", "GiB", "TiB"):
        if value < 1024 or unit == "TiB":
            break
        value /= 1024
    return f"{count} B" if unit == "B" else f"{value:.1f} {unit}"


def folder_bytes(folder: Path) -> int:
    """Return the bytes of all files below a folder."""
    return sum(path.stat().st_size for path in folder.rglob("*") if path.is_file())
