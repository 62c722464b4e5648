"""What the commands share: consoles, JSON on standard output, progress, sizes in words."""

import contextlib
import json
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
    "columns",
    "echo",
    "folder_bytes",
    "is_animated",
    "loading",
    "progress",
    "size",
    "stderr_console",
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
    """Write rows of text to standard output, in columns: wrapped on a terminal, one line per row elsewhere.
    What files say is among them, so what is not printable is escaped.

    head: names of the columns; without it the first column is taken for names.
    """
    from rich.cells import cell_len
    from rich.console import Console
    from rich.table import Table
    from rich.text import Text

    rows = [tuple(map(escaped, row)) for row in rows]
    head, console = None if head is None else tuple(map(escaped, head)), Console(highlight=False)
    if is_animated(console):
        table = Table(box=None, padding=(0, 2, 0, 0), show_header=head is not None, header_style="bold")
        for i in range(len(rows[0]) if rows else 0):
            style = "bold" if i == 0 and head is None else ""
            table.add_column(Text(head[i]) if head else "", style=style, overflow="fold", no_wrap=i == 0)
        for row in rows:
            table.add_row(*map(Text, row))
        console.print(table)
        return
    every = [head, *rows] if head else rows
    widths = [max(map(cell_len, column)) for column in zip(*every, strict=True)]
    for row in every:
        cells = (text + " " * (width - cell_len(text)) for text, width in zip(row, widths, strict=True))
        click.echo("  ".join(cells).rstrip())


def echo(line: str = "", *, err: bool = False, nl: bool = True) -> None:
    """Write a line that may quote a file or a name: what is not printable in it is escaped."""
    click.echo(escaped(line), err=err, nl=nl)


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
