"""The two ways of `ttc generate` with more than one prompt: a file of them, and a person who types them."""

import contextlib
import json
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

import click

from ttc.base.files import write_whole
from ttc.base.quoting import escaped
from ttc.commands.prompts import FilePrompt, as_text, as_token_ids, read_line
from ttc.commands.results import result_json, summary
from ttc.commands.terminal import echo, wrote
from ttc.errors import InputError, TtcError
from ttc.runtime.decoding.options import GenerationOptions

if TYPE_CHECKING:
    from ttc.runtime.engine import Engine

__all__ = ["answer_file", "converse"]

# Prompts that are generated at once; their results are written together.
_AT_ONCE = 8


def answer_file(
    engine: "Engine", prompts: Sequence[FilePrompt], options: GenerationOptions, output: Path | None
) -> None:
    """Generate after every prompt of a file and write a JSON object for each, in their order: to standard
    output as they are done, or to the file `output`, whole.
    """
    lines, tokens, seconds = [], 0, 0.0
    for start in range(0, len(prompts), _AT_ONCE):
        group = prompts[start : start + _AT_ONCE]
        results = engine.generate([prompt.request for prompt in group], options)
        assert isinstance(results, list), "several prompts, several results"
        # Texts of one prompt (`n`) stand one after another.
        counts = [prompt.request.options.get("n") or options.n for prompt in group]
        owners = [prompt for prompt, count in zip(group, counts, strict=True) for _ in range(count)]
        for prompt, result in zip(owners, results, strict=True):
            line = json.dumps({"id": prompt.id, **result_json(result)}, ensure_ascii=False, allow_nan=False)
            tokens += len(result.token_ids)
            seconds = max(seconds, result.stats.seconds)
            if output is None:
                click.echo(line)
            else:
                lines.append(line)
    if output is not None:
        try:
            write_whole(output, "".join(f"{line}\n" for line in lines))
        except InputError:  # what was generated is told, whatever became of the file
            for line in lines:
                click.echo(line)
            raise
        wrote(output)
    echo(f"{len(prompts)} prompts, {tokens} tokens", err=True)


def converse(engine: "Engine", options: GenerationOptions, ids: bool) -> None:
    r"""Generate after every line that is typed, until the end of input; "\n" in a line is a line end."""
    is_terminal = sys.stdin.isatty()
    if is_terminal:
        with contextlib.suppress(ImportError):  # it gives input() a history and arrow keys where there is one
            import readline  # noqa: F401
        echo(
            r"one prompt a line, \n is a line end in it; Ctrl-D ends (the miniature: Question: …\nAnswer:)",
            err=True,
        )
    while True:
        try:
            line = input("> ") if is_terminal else read_line()
        except EOFError:
            if is_terminal:
                click.echo(err=True)
            return
        if not line.strip():
            continue
        try:
            text = line.replace("\\n", "\n")
            result = engine.generate(as_token_ids(text) if ids else as_text(text), options)
        except TtcError as fault:  # the next line may be better
            echo(f"error: {fault}", err=True)
            continue
        for one in result if isinstance(result, list) else [result]:
            words = one.text if one.text is not None and not ids else " ".join(map(str, one.token_ids))
            click.echo(escaped(words, kept="\n\t") if sys.stdout.isatty() else words)
            click.echo(click.style(summary(one), dim=True), err=True)
