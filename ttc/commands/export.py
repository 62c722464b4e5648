"""`ttc export`: checkpoint → bundle."""

import time
from pathlib import Path

import click

from ttc.base.names import COMPUTE_DTYPES
from ttc.commands.options import CheckpointPath
from ttc.commands.terminal import EXIT_INTERRUPTED, echo, folder_bytes, progress, size, write_json

__all__ = ["export"]


@click.command(short_help="Checkpoint folder → bundle.")
@click.argument("checkpoint", type=CheckpointPath())
@click.option("-o", "--output", required=True, type=click.Path(path_type=Path), help="The bundle's folder.")
@click.option("--dtype", type=click.Choice(COMPUTE_DTYPES), help="Compute dtype.  [default: as stored]")
@click.option(
    "--pack/--reference",
    default=None,
    help="Weights in the bundle, or left in the checkpoint.  [default: packed up to 1 GiB]",
)
@click.option(
    "--sign",
    type=click.Path(path_type=Path),
    metavar="KEY",
    help="Sign it with an ed25519 private key (PEM).",
)
@click.option("--force", is_flag=True, help="Replace the bundle that is there.")
@click.option("--json", "as_json", is_flag=True, help="Print one JSON object; no progress.")
@click.pass_context
def export(
    ctx: click.Context,
    checkpoint: Path,
    output: Path,
    dtype: str | None,
    pack: bool | None,
    sign: Path | None,
    force: bool,
    as_json: bool,
) -> None:
    """Turn a CHECKPOINT folder in the Hugging Face layout into a bundle that `ttc generate` runs.

    The bundle appears whole or not at all.
    """
    start = time.perf_counter()
    try:
        with progress("loading torch", quiet=as_json) as say:
            from ttc.exporter.onnx.export import export as export_checkpoint

            made = export_checkpoint(checkpoint, output, dtype, force, pack=pack, sign=sign, progress=say)
    except KeyboardInterrupt:
        echo(f"interrupted; {output} is as it was before", err=True)
        ctx.exit(EXIT_INTERRUPTED)
    seconds = time.perf_counter() - start

    from ttc.formats.manifest import MANIFEST_FILE, Manifest

    manifest = Manifest.from_json((made / MANIFEST_FILE).read_bytes(), str(made / MANIFEST_FILE))
    count, mode = folder_bytes(made), manifest.weights.mode
    if as_json:
        write_json(
            {
                "bundle": str(made),
                "size_bytes": count,
                "compute_dtype": manifest.compute_dtype,
                "weights": mode,
                "checkpoint": manifest.weights.root,
                "seconds": seconds,
            }
        )
        return
    where = "packed" if mode == "packed" else f"by reference to {manifest.weights.root}"
    echo(f"{made}: {size(count)}, {manifest.compute_dtype}, weights {where}, {seconds:.1f} s")
