"""`ttc sign`: a signature for what is there already."""

from pathlib import Path

import click

from ttc.commands.terminal import echo, write_json

__all__ = ["sign"]


@click.command(short_help="Sign a bundle, and the record of its verification.")
@click.argument("folder", type=click.Path(path_type=Path))
@click.option(
    "--key", required=True, type=click.Path(path_type=Path), help="PEM file of an ed25519 private key."
)
@click.option("--json", "as_json", is_flag=True, help="Print one JSON object.")
def sign(folder: Path, key: Path, as_json: bool) -> None:
    """Sign the bundle in FOLDER: its graphs, tokenizer, template and packed weights, and the record that
    `ttc verify` left.

    All digests are checked first. Of a folder of engines, which `ttc build --sign` signs, only the record is
    signed here.
    """
    from ttc.formats.signatures import sign_folder

    made = sign_folder(folder, key)
    if as_json:
        write_json(
            {
                "files": [str(file) for file in made.files],
                "backends": made.backends,
                "notes": list(made.notes),
            }
        )
        return
    for file in made.files:
        echo(str(file))
    for name, passed in made.backends.items():
        echo(f"signed that {name} {'passed' if passed else 'failed'} its verification", err=True)
    for note in made.notes:
        echo(note, err=True)
