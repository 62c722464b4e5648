"""`ttc cache`: what `ttc build` keeps."""

import json
import time
from collections.abc import Mapping
from typing import Any

import click

from ttc.commands.terminal import columns, decimal_size, echo
from ttc.exporter.engines.cache import EngineCache, default_cache_folder

__all__ = ["cache"]


@click.group()
def cache() -> None:
    """The engines that `ttc build` keeps, by the content that made them."""


@cache.command("ls")
@click.option("--limit", type=click.IntRange(min=1), metavar="N", help="Only the N that were used last.")
@click.option("--json", "as_json", is_flag=True, help="Print one JSON object.")
def ls(limit: int | None, as_json: bool) -> None:
    """List the entries, the one used last first."""
    folder = default_cache_folder()
    every = EngineCache(folder).entries()
    entries = every[:limit]
    if as_json:
        content = [
            {**entry.about, "key": entry.key, "size_bytes": entry.size_bytes, "used": entry.used}
            for entry in entries
        ]
        click.echo(json.dumps({"folder": str(folder), "entries": content}))
        return
    echo(f"{folder}: {len(every)} entries, {decimal_size(sum(entry.size_bytes for entry in every))}")
    rows = []
    for entry in entries:
        about = entry.about
        used = time.strftime("%Y-%m-%d %H:%M", time.localtime(entry.used))
        role, form, backend, version = (about.get(key, "?") for key in ("role", "form", "backend", "version"))
        what = f"{role} ({form}, {_taken(about)})"
        rows.append((entry.key[:12], used, decimal_size(entry.size_bytes), what, f"{backend} {version}"))
    if rows:
        columns(rows, ("key", "used", "size", "graph", "built by"))
    if len(entries) < len(every):
        echo(f"and {len(every) - len(entries)} more")


@cache.command("clear")
@click.option("--json", "as_json", is_flag=True, help="Print one JSON object.")
def clear(as_json: bool) -> None:
    """Delete all entries."""
    folder = default_cache_folder()
    deleted = EngineCache(folder).clear()
    if as_json:
        click.echo(json.dumps({"folder": str(folder), "deleted": deleted}))
    else:
        echo(f"{folder}: {deleted} entries deleted")


def _taken(about: Mapping[str, Any]) -> str:
    """Return what a graph computes in; of a foreign one what it takes."""
    inputs = about.get("inputs")
    if not isinstance(inputs, list):
        return str(about.get("dtype", "?"))
    named = (one for one in inputs if isinstance(one, dict) and isinstance(one.get("max"), list))
    return "up to " + ", ".join(f"{one.get('name')} {'x'.join(map(str, one['max']))}" for one in named)
