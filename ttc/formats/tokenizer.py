"""Opening a tokenizer.json that somebody else wrote, and encoding with it.

The `tokenizers` library is written in Rust. What it finds wrong in a file it raises as a bare `Exception`;
where it gives up it raises a panic, which is a `BaseException` only, at times not before a text is encoded.
So a tokenizer is tried once when it is opened, and whatever it raises becomes an error of ours.
"""

import contextlib
import os
from collections.abc import Callable, Iterator, Sequence
from typing import TYPE_CHECKING

from ttc.errors import InputError, MissingDependencyError, TtcError

if TYPE_CHECKING:
    from tokenizers import Tokenizer

__all__ = ["LONG_TEXT", "MAX_TOKENIZER_BYTES", "encoded", "open_tokenizer"]

MAX_TOKENIZER_BYTES = 256 * 2**20
# Characters; more take so long to encode that others should not wait.
LONG_TEXT = 10_000
# Characters; the library takes some fifty bytes for each, and no model reads so many.
_MOST_TEXT = 2**24
# Words, digits, an accent, a sign of three bytes and one of four, and a line end.
_TRIAL = "A trial: 12 é 漢 \U0001f600\n"


def open_tokenizer(raw: bytes, where: str, error: type[TtcError]) -> "Tokenizer":
    """Return the tokenizer in a file's content.

    Truncation and padding that its file asks for are for training: they would change prompts without a word,
    so they are never applied.

    Args:
        raw: the content of tokenizer.json.
        where: what messages call it.
        error: the class of every refusal.
    """
    try:
        from tokenizers import Tokenizer
    except ImportError:
        raise MissingDependencyError(
            f"{where}: reading it needs the package `tokenizers`; pip install tokenizers"
        ) from None
    refused = _faults_as(lambda reason: error(f"{where}: not a tokenizer that can be used ({reason})"))
    with refused, _silent():
        tokenizer = Tokenizer.from_buffer(raw)
        tokenizer.no_truncation()
        tokenizer.no_padding()
        tokenizer.decode(tokenizer.encode(_TRIAL).ids)
        tokenizer.decode(tokenizer.encode("").ids)
    return tokenizer


def encoded(tokenizer: "Tokenizer", text: str) -> Sequence[int]:
    """Return the token ids of a text. Of the tokenizer's two ways, the one for several texts lets other
    threads work meanwhile; it is taken for a long text.

    Raises:
        InputError: the tokenizer fails at this text, or it is longer than any that is read.
    """
    if len(text) > _MOST_TEXT:
        raise InputError(f"a text of {len(text)} characters; valid: up to {_MOST_TEXT}")
    with _faults_as(lambda reason: InputError(f"the tokenizer cannot encode this text ({reason})")):
        encoding = tokenizer.encode(text) if len(text) <= LONG_TEXT else tokenizer.encode_batch([text])[0]
        ids: Sequence[int] = encoding.ids
    return ids


@contextlib.contextmanager
def _silent() -> Iterator[None]:
    """Keep what a panic writes to the process's standard error, a stack of dozens of lines, from there.

    That is a descriptor of the whole process, so this is for a moment while something is opened.
    """
    try:
        kept = os.dup(2)
    except OSError:  # closed
        yield
        return
    try:
        nowhere = os.open(os.devnull, os.O_WRONLY)
        os.dup2(nowhere, 2)
        os.close(nowhere)
        yield
    finally:
        os.dup2(kept, 2)
        os.close(kept)


@contextlib.contextmanager
def _faults_as(make: Callable[[str], TtcError]) -> Iterator[None]:
    """Turn what the library raises, panics too, into an error of ours."""
    try:
        yield
    except (KeyboardInterrupt, SystemExit, GeneratorExit):
        raise
    except BaseException as fault:
        lines = str(fault).splitlines()
        raise make(lines[0][:200] if lines else type(fault).__name__) from None
