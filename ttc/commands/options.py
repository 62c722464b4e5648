"""Options that several commands take, written once."""

from pathlib import Path

import click

__all__ = ["checkpoint_option", "device_option"]

device_option = click.option("--device", metavar="cpu|cuda|cuda:N", help="[default: the best there is]")
checkpoint_option = click.option(
    "--checkpoint",
    type=click.Path(path_type=Path),
    help="Where the checkpoint of a bundle by reference lies now, if it was moved.",
)
