"""`ttc quantize`: a checkpoint with its routed experts in 8 or 4 bits."""

import time
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from ttc.base.quantised import PLAIN, WRITTEN_FORMATS
from ttc.commands.options import CheckpointPath
from ttc.commands.terminal import (
    EXIT_INTERRUPTED,
    columns,
    decimal_size,
    echo,
    folder_bytes,
    progress,
    size,
    write_json,
)

if TYPE_CHECKING:
    from ttc.planning.holding import Holding
    from ttc.quantize.plan import Formats, QuantizePlan
    from ttc.quantize.record import Record

__all__ = ["quantize"]

_TOWER = click.Choice((PLAIN, *WRITTEN_FORMATS))


@click.command(short_help="Checkpoint folder → the same with experts in 8 or 4 bits.")
@click.argument("checkpoint", type=CheckpointPath())
@click.option("-o", "--output", type=click.Path(path_type=Path), help="The new checkpoint's folder.")
@click.option("--experts", type=click.Choice(WRITTEN_FORMATS), help="Format of the routed experts.")
@click.option("--context-experts", type=_TOWER, help="Of the context tower's.  [default: as --experts]")
@click.option("--denoiser-experts", type=_TOWER, help="Of the denoiser's.  [default: as --experts]")
@click.option("--plain-nvfp4", is_flag=True, help="NVFP4 without four over six: ModelOpt's plain bytes.")
@click.option("--jobs", type=int, metavar="N", help="Processes at once.  [default: one a usable core]")
@click.option("--dry-run", is_flag=True, help="Say what it would take, and which GPUs would hold it.")
@click.option("--force", is_flag=True, help="Replace the quantised checkpoint that is there.")
@click.option("--json", "as_json", is_flag=True, help="Print one JSON object; no progress.")
@click.pass_context
def quantize(
    ctx: click.Context,
    checkpoint: Path,
    output: Path | None,
    experts: str | None,
    context_experts: str | None,
    denoiser_experts: str | None,
    plain_nvfp4: bool,
    jobs: int | None,
    dry_run: bool,
    force: bool,
    as_json: bool,
) -> None:
    """Copy a CHECKPOINT with its routed experts quantised, weights only, rounded to nearest.

    Everything else is copied as it is. The result is a checkpoint folder again, which `ttc export` takes; it
    appears whole or not at all.
    """
    from ttc.quantize.plan import Formats

    formats = Formats(
        _tower(context_experts, experts, "--context-experts"),
        _tower(denoiser_experts, experts, "--denoiser-experts"),
        not plain_nvfp4,
    )
    if plain_nvfp4 and "nvfp4" not in formats.used:
        raise click.UsageError("--plain-nvfp4 goes with nvfp4 only.")
    if dry_run:
        _plan(checkpoint, formats, as_json)
        return
    if output is None:
        raise click.UsageError("Missing option '-o' / '--output'.")
    from ttc.quantize.run import quantize as run

    start = time.perf_counter()
    try:
        with progress("quantising", quiet=as_json) as say:
            record = run(checkpoint, output, formats, force=force, jobs=jobs, progress=say)
    except KeyboardInterrupt:
        echo(f"interrupted; {output} is as it was before", err=True)
        ctx.exit(EXIT_INTERRUPTED)
    _tell(record, output, time.perf_counter() - start, as_json)


def _tower(own: str | None, both: str | None, option: str) -> str:
    if own is None and both is None:
        raise click.UsageError(f"--experts is missing, or {option}; valid: {', '.join(WRITTEN_FORMATS)}.")
    return own or both or PLAIN


def _plan(checkpoint: Path, formats: "Formats", as_json: bool) -> None:
    from ttc.planning.holding import holding
    from ttc.planning.machines import known_machines
    from ttc.quantize.run import plan_quantize

    plan = plan_quantize(checkpoint, formats)
    held = holding(known_machines(), plan.tower_bytes.values())
    if as_json:
        write_json(_sizes(plan) | {"machines": [_held(one) for one in held]})
        return
    before, after = plan.expert_bytes
    columns(
        [
            ("experts", f"{formats}: {decimal_size(before)} → {decimal_size(after)} ({after / before:.3f})"),
            *((tower.replace("_", " "), decimal_size(count)) for tower, count in plan.tower_bytes.items()),
            ("both", f"{decimal_size(sum(plan.tower_bytes.values()))} of {decimal_size(plan.source_bytes)}"),
            ("written", f"{decimal_size(plan.total_bytes)} in {len(plan.files)} files"),
            ("matrices", f"{len(plan.matrices)} quantised"),
        ]
    )
    for what, text in (("both", "both towers on one"), ("one", "a tower each on two"), ("none", "too large")):
        names = [
            f"{one.machine} ({one.left_bytes / 1e9:.1f} GB left)" if what != "none" else one.machine
            for one in held
            if one.holds == what
        ]
        if names:
            echo(f"{text}: {', '.join(names)}")


def _held(one: "Holding") -> dict[str, Any]:
    return {"machine": one.machine, "holds": one.holds, "left_bytes": one.left_bytes}


def _sizes(plan: "QuantizePlan") -> dict[str, Any]:
    return {
        "experts": {"context": plan.formats.context, "denoiser": plan.formats.denoiser},
        "matrices": len(plan.matrices),
        "files": len(plan.files),
        "source_bytes": plan.source_bytes,
        "written_bytes": plan.total_bytes,
        "tower_bytes": dict(plan.tower_bytes),
        "expert_bytes": list(plan.expert_bytes),
    }


def _tell(record: "Record", output: Path, seconds: float, as_json: bool) -> None:
    if as_json:
        made = {"checkpoint": str(output), "size_bytes": folder_bytes(output), "seconds": seconds}
        write_json(made | record.to_dict())
        return
    rows = []
    for layer in record.layers:
        expert, worst = layer.worst
        rows.append((layer.module, layer.format, f"{layer.mean:.4f}", f"{worst:.4f} (expert {expert})"))
    columns(rows, ("matrices", "format", "mean error", "largest"))
    echo(f"{output}: {size(folder_bytes(output))}, experts in {record.formats}, {seconds:.1f} s")
