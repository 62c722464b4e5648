"""Options that several commands take, written once."""

from pathlib import Path
from typing import Any

import click

from ttc.formats import shipped

__all__ = ["BundlePath", "CheckpointPath", "checkpoint_option", "device_option", "trust_option"]


class BundlePath(click.Path):
    """A bundle's folder, or `miniature`: then the model that comes with the package, unless there is a folder
    of that name. Which of the two it is, is said.
    """

    def __init__(self, exists: bool = False) -> None:
        super().__init__(path_type=Path, exists=exists)

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> Any:
        """Return the path."""
        if shipped.is_shipped(value):
            click.echo(f"{shipped.NAME}: the model that comes with ttc", err=True)
            return self.found()
        path = super().convert(value, param, ctx)
        if str(path) == shipped.NAME:
            click.echo(f"{shipped.NAME}: what lies here, not the model that comes with ttc", err=True)
        return path

    def found(self) -> Path:
        """Return where the miniature's bundle lies."""
        return shipped.shipped_bundle()


class CheckpointPath(BundlePath):
    """A checkpoint's folder, or `miniature`, likewise."""

    def found(self) -> Path:
        """Return where the miniature's checkpoint lies."""
        return shipped.shipped_checkpoint()


device_option = click.option("--device", metavar="cpu|cuda|cuda:N", help="[default: the best there is]")
checkpoint_option = click.option(
    "--checkpoint",
    type=click.Path(path_type=Path),
    help="Where the checkpoint of a bundle by reference lies now, if it was moved.",
)
trust_option = click.option(
    "--public-key",
    "--trust",
    "trust",
    type=click.Path(path_type=Path),
    metavar="KEY",
    help="PEM file of the public key that must have signed the bundle and the engines that are used.",
)
