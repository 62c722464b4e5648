"""Options that several commands take, written once."""

from pathlib import Path

import click

__all__ = ["checkpoint_option", "device_option", "trust_option"]

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
    help="PEM file of the public key that must have signed the engines.",
)
