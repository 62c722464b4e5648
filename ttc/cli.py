"""The command line, `ttc`. It and the modules of `ttc.commands` are the only place that prints and exits.

Exit codes: 0 done; 1 a `TtcError`, told in one line; 2 wrong usage; 70 a bug of ours; 130 interrupted;
128 + n ended by signal n (SIGTERM, SIGHUP), cleaned up as after an interrupt.
Standard output holds the result and nothing else; progress, warnings and errors go to standard error.
"""

import contextlib
import io
import logging
import os
import signal
import sys
from collections.abc import Iterator
from importlib import import_module
from types import FrameType
from typing import Any

import click

from ttc import __version__
from ttc.base.quoting import escaped
from ttc.base.suggestion import suggestion
from ttc.commands.terminal import EXIT_INTERRUPTED, coloured
from ttc.errors import TtcError

__all__ = ["main", "program"]

COMMANDS = (
    "export",
    "quantize",
    "build",
    "generate",
    "serve",
    "bench",
    "plan",
    "inspect",
    "verify",
    "sign",
    "profile",
    "run",
    "cache",
    "doctor",
    "demo",
)
EXIT_ERROR, EXIT_BUG = 1, 70


HELP = """Two-tower block-diffusion language models: from a checkpoint to ONNX to tokens.

\b
ttc export CHECKPOINT -o BUNDLE      once
ttc generate BUNDLE "PROMPT"         as often as you like
ttc demo                             both, with the miniature that comes with ttc
"""  # \b: click leaves the next lines as they are


def main() -> None:
    """Run the command that the process was started with."""
    if isinstance(sys.stdout, io.TextIOWrapper):
        # A model may write what this terminal's encoding cannot; that is no reason to fail.
        sys.stdout.reconfigure(errors="backslashreplace")
    for name in ("SIGTERM", "SIGHUP"):
        if hasattr(signal, name):
            signal.signal(getattr(signal, name), _end_by_signal)
    code = _run()
    if not _is_written_out(quiet=bool(code)):
        code = code or EXIT_ERROR
    if code == EXIT_INTERRUPTED:
        # An interrupt that passed through an exec() of text, as in torch, makes Python end itself by the
        # signal, whatever exit code is asked for. All is cleaned up here, so leaving at once is safe.
        sys.stderr.flush()
        os._exit(EXIT_INTERRUPTED)
    sys.exit(code)


def _run() -> int | str | None:
    """Run the command; return the exit code."""
    try:
        program(prog_name="ttc")
    except SystemExit as end:
        return end.code
    except OSError as fault:  # where click itself writes, as its help
        _tell(f"error: {_of_system(fault)}")
        return EXIT_ERROR
    return 0


def _is_written_out(quiet: bool) -> bool:
    """Write out what is left for standard output, and return whether that could be done.

    quiet: an error was told already, and this would be the same one again.
    """
    try:
        sys.stdout.flush()
    except BrokenPipeError:
        return True  # who read it had enough, and Python's own end is quiet about that
    except OSError as fault:
        # What is left would be tried again at the end of the process, and complained about.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        if not quiet:
            _tell(f"error: standard output: {_of_system(fault)}")
        return False
    return True


def _end_by_signal(number: int, frame: FrameType | None) -> None:
    """End as an interrupt does, so that everything under way is cleaned up."""
    sys.exit(128 + number)


class _Program(click.Group):
    """Commands by name, each imported when it is asked for; errors become one line and an exit code."""

    def list_commands(self, ctx: click.Context) -> list[str]:
        return list(COMMANDS)

    def get_command(self, ctx: click.Context, cmd_name: str) -> click.Command | None:
        if cmd_name not in COMMANDS:
            return None
        command = getattr(import_module(f"ttc.commands.{cmd_name}"), cmd_name)
        assert isinstance(command, click.Command)
        return command

    def resolve_command(
        self, ctx: click.Context, args: list[str]
    ) -> tuple[str | None, click.Command | None, list[str]]:
        try:
            return super().resolve_command(ctx, args)
        except click.UsageError as fault:
            raise click.UsageError(fault.message + suggestion(args[0], COMMANDS), fault.ctx) from None

    def invoke(self, ctx: click.Context) -> Any:
        try:
            with _warnings_on_stderr():
                return super().invoke(ctx)
        except (click.ClickException, click.exceptions.Exit, click.Abort, BrokenPipeError):
            raise  # click's own ways to end
        except TtcError as error:
            _tell(f"error: {error}")
            ctx.exit(EXIT_ERROR)
        except KeyboardInterrupt:
            _tell("interrupted")
            ctx.exit(EXIT_INTERRUPTED)
        except OSError as fault:  # a full disk, a file that went away: the machine's, not ours
            if os.environ.get("TTC_DEBUG"):
                raise
            _tell(f"error: {_of_system(fault)}")
            ctx.exit(EXIT_ERROR)
        except MemoryError:
            if os.environ.get("TTC_DEBUG"):
                raise
            _tell("error: this needs more memory than there is")
            ctx.exit(EXIT_ERROR)
        except Exception as fault:
            if os.environ.get("TTC_DEBUG"):
                raise
            what = f"{type(fault).__name__}: {fault}"
            _tell(f"internal error: {what} (a bug of ttc; TTC_DEBUG=1 shows where)")
            ctx.exit(EXIT_BUG)


@click.group(
    cls=_Program,
    help=HELP,
    context_settings={"help_option_names": ["-h", "--help"], "max_content_width": 100},
)
@click.version_option(__version__, message="ttc %(version)s")
def program() -> None:
    """Everything; the commands do the work."""


def _of_system(fault: OSError) -> str:
    """Return what the system says is wrong, and with which file."""
    reason = fault.strerror or str(fault) or type(fault).__name__
    return reason if fault.filename is None else f"{os.fsdecode(fault.filename)}: {reason}"


class _WarningHandler(logging.Handler):
    """Tells every warning of `ttc` once."""

    def __init__(self) -> None:
        super().__init__(logging.WARNING)
        self._told: set[str] = set()

    def emit(self, record: logging.LogRecord) -> None:
        message = record.getMessage()
        if message not in self._told:
            self._told.add(message)
            _tell(f"warning: {message}")


@contextlib.contextmanager
def _warnings_on_stderr() -> Iterator[None]:
    logger, handler = logging.getLogger("ttc"), _WarningHandler()
    logging.getLogger("onnx_ir").setLevel(logging.ERROR)  # of a graph that is odd we say what is wrong
    logger.addHandler(handler)
    try:
        yield
    finally:
        logger.removeHandler(handler)


def _tell(message: str) -> None:
    """One line on standard error, whatever the message quotes; its first word is coloured on a terminal."""
    word, colon, rest = escaped(message).partition(": ")
    if colon:
        word = coloured(word, fg="yellow" if word == "warning" else "red", bold=True)
    # Asked for by name: while a picture is drawn, that name is a stream that writes above the picture.
    click.echo(f"{word}{colon}{rest}", file=sys.stderr)
