"""What `mkdocs build` does beside the documents themselves (hooks of mkdocs.yml): two pages of reference
made from the code, and links that leave the folder `docs`, which become plain paths.
"""

import inspect
import re
import sys
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).parents[1]))

import click

import ttc
from ttc.cli import program

# [text](../path#anchor)
_OUTSIDE = re.compile(r"\[([^\]]*)\]\((\.\./[^)\s]+)\)")


def on_files(files: Any, config: Any) -> Any:
    """Add the pages of reference."""
    from mkdocs.structure.files import File

    for name, content in (("commands", commands()), ("python", names())):
        files.append(File.generated(config, f"reference-{name}.md", content=content))
    return files


def on_page_markdown(markdown: str, page: Any, config: Any, files: Any) -> str:
    """Turn links to other files of the repository into their paths, which must exist."""

    def plain(match: re.Match[str]) -> str:
        path = Path(config.docs_dir) / match[2].partition("#")[0]
        if not path.exists():
            raise FileNotFoundError(f"{page.file.src_path}: {match[2]} leads nowhere")
        return f"{match[1]} (`{path.resolve().relative_to(Path(config.docs_dir).parent)}`)"

    return _OUTSIDE.sub(plain, markdown)


def commands() -> str:
    """Return the help of every command."""
    parts = ["# Commands, option by option\n", "Made from the code; `ttc COMMAND --help` says the same.\n"]
    with click.Context(program, info_name="ttc") as parent:
        for name in program.list_commands(parent):
            command = program.get_command(parent, name)
            assert command is not None
            with click.Context(command, info_name=name, parent=parent, max_content_width=100) as context:
                parts.append(f"## ttc {name}\n\n```text\n{command.get_help(context)}\n```\n")
    return "\n".join(parts)


def names() -> str:
    """Return every public name with its signature and what it says of itself, and its public methods."""
    parts = ["# Python, name by name\n", "Made from the code; `help(ttc.load)` says the same.\n"]
    for name in ttc.__all__:
        value = getattr(ttc, name)
        if name.startswith("__"):
            continue
        parts.append(f"## ttc.{name}\n\n{_described(name, value)}")
        if inspect.isclass(value) and not issubclass(value, Exception):
            for method, function in inspect.getmembers(value, callable):
                if not method.startswith("_") and inspect.getdoc(function):
                    parts.append(f"### {name}.{method}\n\n{_described(method, function)}")
    return "\n".join(parts)


def _described(name: str, value: Any) -> str:
    try:
        signature = f"{name}{inspect.signature(value)}"
    except (TypeError, ValueError):
        signature = name
    return f"```text\n{signature}\n\n{inspect.getdoc(value) or ''}\n```\n"
