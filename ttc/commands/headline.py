"""`ttc bench --headline`: the miniature that comes with ttc, measured."""

import dataclasses
from typing import TYPE_CHECKING, Any

import click

from ttc.commands.terminal import columns, echo, progress
from ttc.formats.shipped import shipped_bundle, shipped_checkpoint

if TYPE_CHECKING:
    from ttc.bench.schema import Report

__all__ = ["headline", "tell"]

# What goes with --headline; everything else about the run is fixed.
_CHOICES = ("tasks", "limit", "repeats", "timed_prompts")


def headline(settings: dict[str, Any], quiet: bool) -> "Report":
    """Run it.

    settings: of the command line, those only that were given.
    """
    if others := sorted(set(settings) - set(_CHOICES)):
        name = others[0].replace("_", "-")
        allowed = ", ".join(f"--{choice.replace('_', '-')}" for choice in _CHOICES)
        raise click.UsageError(f"--{name} does not go with --headline; what does: {allowed}.")
    with progress("loading the bundle", quiet) as say:
        from ttc.bench.headline import SETTINGS
        from ttc.bench.session import run_bench

        fixed = {"tasks": shipped_checkpoint() / "problems.jsonl"}
        return run_bench(shipped_bundle(), dataclasses.replace(SETTINGS, **(fixed | settings)), say)


def tell(report: "Report") -> None:
    """Write it for a reader."""
    from ttc.bench import headline as figures

    columns(figures.rows(report), figures.HEAD)
    for note in figures.notes(report):
        click.echo()
        echo(note)
