"""Where the prompts of `ttc generate` come from: the command line, standard input, a file, the miniature."""

import re
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from ttc.base.files import read_bounded
from ttc.errors import InputError
from ttc.formats.strictjson import parse_json, quoted
from ttc.runtime.decoding.request import Request

__all__ = ["FilePrompt", "as_text", "as_token_ids", "prompts_of", "read_line", "read_stdin", "read_text"]

# Of a file with a schema; more than may be given.
_MOST_READ = 1 << 20
# Of a file with prompts, and of standard input.
_MOST_PROMPTS = 1 << 28
# Of what is typed, or read from standard input, as one prompt.
_MOST_PROMPT = 1 << 26


@dataclass(frozen=True, slots=True)
class FilePrompt:
    """A prompt of a file.

    Attributes:
        request: the prompt, with the options that its line names.
        id: what the line calls it, else its number from 0.
    """

    request: Request
    id: Any


def prompts_of(file: Path, ids: bool) -> list[FilePrompt]:
    """Read a file of prompts: of JSON objects, one a line (.jsonl, or - for standard input), else of texts,
    one a line.

    An object has `prompt`, a text, or `token_ids`; `id` comes back with the result; all else are options by
    the names of `ttc.GenerationOptions`.

    Args:
        file: its path.
        ids: a line of a text file is token ids with blanks between.

    Raises:
        InputError: a line is not as said; its number is named.
    """
    is_stdin = str(file) == "-"
    raw = _stdin(_MOST_PROMPTS) if is_stdin else read_bounded(file, _MOST_PROMPTS, InputError)
    lines = [
        (i, line) for i, line in enumerate(_decoded(raw, str(file)).splitlines(), start=1) if line.strip()
    ]
    if not lines:
        raise InputError(f"{file}: no prompt in it; one a line is expected")
    if is_stdin or file.suffix == ".jsonl":
        return list(_of_json(file, lines))
    return [FilePrompt(Request(as_token_ids(line) if ids else line), i) for i, (_, line) in enumerate(lines)]


def _of_json(file: Path, lines: list[tuple[int, str]]) -> Iterator[FilePrompt]:
    for i, (number, line) in enumerate(lines):
        where = f"{file}, line {number}"
        content = parse_json(line.encode(), where, InputError)
        if not isinstance(content, dict) or ("prompt" in content) == ("token_ids" in content):
            raise InputError(f'{where}: a JSON object with either "prompt" or "token_ids" is expected')
        name = content.pop("id", i)
        prompt = content.pop("prompt", None)
        if prompt is None:
            prompt = content.pop("token_ids")
        elif not isinstance(prompt, str):
            raise InputError(f"{where}: prompt is {quoted(prompt)}; valid: a text")
        try:
            yield FilePrompt(Request(prompt, **content), name)
        except (InputError, TypeError) as fault:  # an unknown name is an error of type
            raise InputError(f"{where}: {fault}") from None


def read_stdin() -> str:
    """Return standard input as a prompt."""
    # Shells and editors end a text with a line end that the prompt does not mean.
    return _decoded(_stdin(_MOST_PROMPT), "standard input").removesuffix("\n").removesuffix("\r")


def read_line() -> str:
    """Return the next line of standard input without its end.

    Raises:
        EOFError: there is none.
        InputError: it has no end, as far as anybody would read.
    """
    line = sys.stdin.readline(_MOST_PROMPT)
    if not line:
        raise EOFError
    if len(line) == _MOST_PROMPT:
        raise InputError(f"standard input: a line of {_MOST_PROMPT} characters or more")
    return line.removesuffix("\n")


def read_text(path: Path) -> str:
    """Read a small file; what it holds is checked with the options."""
    return _decoded(read_bounded(path, _MOST_READ, InputError), str(path))


def as_text(prompt: str) -> str:
    """Return a text prompt as it was typed; raise `InputError` where it is not UTF-8."""
    try:
        prompt.encode("utf-8")
    except UnicodeEncodeError as fault:
        where = f"character {fault.start}"
        raise InputError(f"the prompt is not UTF-8 text ({where}); convert it first") from None
    return prompt


def as_token_ids(prompt: str) -> list[int]:
    """Return the token ids of a text that is made of them; raise `InputError` at a word that is none."""
    words = prompt.split()
    for i, word in enumerate(words):
        if not re.fullmatch(r"-?[0-9]{1,18}", word):
            raise InputError(
                f"--token-ids: word {i} of the prompt is {word[:40]!r}; valid: token ids with blanks between"
            )
    return [int(word) for word in words]


def _stdin(most: int) -> bytes:
    """Return standard input, which somebody may have made endless."""
    raw = sys.stdin.buffer.read(most + 1)
    if len(raw) > most:
        raise InputError(f"standard input: more than {most} bytes")
    return raw


def _decoded(raw: bytes, where: str) -> str:
    try:
        return raw.decode("utf-8")
    except UnicodeDecodeError as fault:
        raise InputError(f"{where} is not UTF-8 text (byte {fault.start}); convert it first") from None
