"""`ttc serve`: an HTTP service over one bundle."""

import dataclasses
import os
import sys
from pathlib import Path
from typing import Any

import click

from ttc.base.distribution import install
from ttc.base.names import BACKENDS, MODES
from ttc.commands.terminal import echo
from ttc.errors import InputError, MissingDependencyError
from ttc.formats.shipped import NAME, is_shipped, shipped_bundle

__all__ = ["serve"]


@click.command(short_help="An HTTP service, as OpenAI's clients know it.")
@click.argument("bundle", type=click.Path(), required=False)
@click.option("--demo", is_flag=True, help="Serve the miniature that comes with ttc.")
@click.option("--host", metavar="ADDRESS", help="Where it listens.  [default: 127.0.0.1]")
@click.option("--port", type=int, metavar="N", help="0 takes a free one.  [default: 8000]")
@click.option("--backend", type=click.Choice(BACKENDS), help="[default: onnxruntime]")
@click.option("--device", metavar="cpu|cuda|cuda:N", help="[default: the best there is]")
@click.option("--engines", type=click.Path(), metavar="DIR", help="Where `ttc build` put the engines.")
@click.option(
    "--public-key",
    "--trust",
    "trust",
    type=click.Path(),
    metavar="KEY",
    help="PEM file of the public key that must have signed the bundle and the engines that are used.",
)
@click.option("--capacity", type=int, metavar="C", help="Tokens that fit into a row, with the prompt.")
@click.option("--max-rows", type=int, metavar="N", help="Rows that run at once.  [default: 16]")
@click.option("--max-queued", type=int, metavar="N", help="Rows that may wait.  [default: 64]")
@click.option("--max-queued-tokens", type=int, metavar="N", help="Prompt tokens that may wait.")
@click.option("--prefix-cache-bytes", type=int, metavar="N", help="0 for no cache.  [default: by memory]")
@click.option("--served-model-name", metavar="NAME", help="What clients call the model.")
@click.option("--mode", type=click.Choice(MODES), help="When a request names none.  [default: diffusion]")
@click.option("--api-key-file", type=click.Path(), metavar="FILE", help="Keys that may ask, one a line.")
@click.option("--chat-template", type=click.Path(), metavar="FILE", help="Jinja template of chats.")
@click.option(
    "--drain-seconds", type=float, metavar="S", help="For accepted work after SIGTERM.  [default: 30]"
)
@click.option("--config", type=click.Path(path_type=Path), metavar="FILE", help="Settings in TOML.")
def serve(bundle: str | None, demo: bool, config: Path | None, **options: Any) -> None:
    """Serve a bundle over HTTP until SIGTERM. Settings also come from TTC_* variables and a TOML file."""
    try:
        from ttc.serving.server import serve as run
        from ttc.serving.service.settings import read_settings
    except ModuleNotFoundError as fault:
        raise MissingDependencyError(f"the service needs {fault.name}; run: {install('serve')}") from None
    if demo and bundle is not None:
        raise click.UsageError("give a BUNDLE or --demo")
    settings = read_settings({"bundle": NAME if demo else bundle, **options}, config)
    if not settings.bundle:
        raise InputError("no bundle; name one, or try: ttc serve --demo")
    if demo or is_shipped(settings.bundle):
        settings = dataclasses.replace(settings, bundle=str(shipped_bundle()))
    code = run(settings, _say)
    sys.stdout.flush()
    sys.stderr.flush()
    if code:
        # A thread that hangs in its device would keep the process.
        os._exit(code)
    sys.exit(code)


def _say(line: str) -> None:
    """Tell the person who started it; that nobody reads it any more stops nothing."""
    try:
        echo(line, err=True)
    except OSError:
        sys.stderr = Path(os.devnull).open("w", encoding="utf-8")  # noqa: SIM115  # for the process's life
