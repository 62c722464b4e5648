"""`ttc profile`: where the time goes."""

from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING

import click

from ttc.base.files import check_writable
from ttc.base.names import BACKENDS
from ttc.commands.options import BundlePath, checkpoint_option, device_option, trust_option
from ttc.commands.terminal import columns, duration, echo, progress, write_json, wrote
from ttc.errors import InputError

if TYPE_CHECKING:
    from ttc.profiling.report import Part, PhaseProfile, Profile, Total

__all__ = ["profile"]

_MAX_ROWS = 6


@click.command(short_help="Where the time goes: phases, layers, ops.")
@click.argument("bundle", type=BundlePath())
@click.option(
    "--backend",
    type=click.Choice(BACKENDS),
    default="onnxruntime",
    show_default=True,
)
@click.option(
    "--engines",
    type=click.Path(path_type=Path),
    metavar="DIR",
    help="tensorrt, tensorrt-rtx: engines that `ttc build` made, on a GPU.  [default: BUNDLE/engines]",
)
@trust_option
@device_option
@click.option("--batch", type=int, default=1, show_default=True, metavar="B", help="Rows.")
@click.option(
    "--context", type=int, default=64, show_default=True, metavar="N", help="Tokens already in the context."
)
@click.option("--repeats", type=int, default=20, show_default=True, metavar="N", help="Calls of each phase.")
@click.option("--threads", type=int, metavar="N", help="CPU threads per call (onnxruntime).")
@click.option(
    "--peak-flops", type=float, metavar="X", help="The hardware's FLOP/s.  [default: measured on CPU]"
)
@click.option("--peak-bandwidth", type=float, metavar="X", help="Its bytes/s.  [default: measured on CPU]")
@checkpoint_option
@click.option("--layers", is_flag=True, help="Show every layer.")
@click.option(
    "--trace",
    type=click.Path(path_type=Path),
    metavar="FILE.json",
    help="Write a trace for Perfetto or Chrome.",
)
@click.option(
    "--plot", type=click.Path(path_type=Path), metavar="FILE.svg", help="Draw the phases by layer kind."
)
@click.option("--json", "as_json", is_flag=True, help="Print one JSON object with every part.")
def profile(
    bundle: Path,
    backend: str,
    engines: Path | None,
    trust: Path | None,
    device: str | None,
    batch: int,
    context: int,
    repeats: int,
    threads: int | None,
    peak_flops: float | None,
    peak_bandwidth: float | None,
    checkpoint: Path | None,
    layers: bool,
    trace: Path | None,
    plot: Path | None,
    as_json: bool,
) -> None:
    """Time the phases of a generation with the model in BUNDLE, by layer kind and op.

    Beside the times stand the bytes and the arithmetic that are needed at least, and how near the time comes
    to what the machine could do.
    """
    from ttc.profiling.plot import write_plot
    from ttc.profiling.run import profile as run
    from ttc.profiling.trace import write_trace

    for target, ending in ((trace, ".json"), (plot, ".svg")):
        if target is not None:
            _check_target(target, ending)
    with progress("profiling", quiet=as_json) as say:
        found, spans = run(
            bundle,
            backend,
            device=device,
            checkpoint=checkpoint,
            engines=engines,
            trust=trust,
            batch=batch,
            context=context,
            repeats=repeats,
            threads=threads,
            peak_flops=peak_flops,
            peak_bandwidth=peak_bandwidth,
            progress=say,
        )
    try:
        if trace is not None:
            write_trace(spans, trace)
            wrote(trace)
        if plot is not None:
            write_plot(found, plot)
            wrote(plot)
    finally:  # what was measured is told, whatever became of the files
        if as_json:
            write_json(found.to_dict())
        else:
            _show(found, layers)


def _check_target(path: Path, ending: str) -> None:
    """Refuse a file that could not be written, or that its readers would not know, before time is spent."""
    if path.suffix != ending:
        raise InputError(f"{path}: give a file name that ends in {ending}")
    check_writable(path)


def _show(found: "Profile", layers: bool) -> None:
    echo(f"{found.backend} ({found.version}, {found.device}), batch {found.batch}, ", nl=False)
    echo(f"{found.context} tokens in the context, fastest of {found.repeats} calls")
    click.echo()
    head = ("phase", "tokens", "time", "without profiler", "explained")
    columns(_phases(found), head)
    for phase in found.phases:
        click.echo()
        echo(f"{phase.name}")
        columns(
            _totals(found, phase, layers),
            ("", "kernel time", "share", "with gaps", "calls", "MFLOP", "MB", "of the limit"),
        )
    click.echo()
    echo(f"{found.most_expensive}")
    for loop in found.loops:
        outside = loop.seconds - loop.backend_seconds
        echo(
            f"loop, {loop.mode}: {outside / loop.seconds:.1%} of {loop.seconds * 1e3:.0f} ms "
            f"for {loop.new_tokens} tokens is outside the backend"
        )
    for note in found.notes:
        echo(f"note: {note}")


def _phases(found: "Profile") -> Iterator[tuple[str, ...]]:
    for phase in found.phases:
        yield (
            phase.name,
            str(phase.tokens),
            duration(phase.seconds),
            duration(phase.unprofiled),
            f"{phase.explained:.0%}",
        )


def _totals(found: "Profile", phase: "PhaseProfile", layers: bool) -> Iterator[tuple[str, ...]]:
    def layer(part: "Part") -> str:
        return f"{part.place} ({part.label})" if part.layer is not None else part.place

    for total in found.by(phase, lambda part: part.label):
        yield _row(total, "")
    if layers:
        for total in found.by(phase, layer):
            yield _row(total, "  ")
    for total in found.by(phase, lambda part: part.op)[:_MAX_ROWS]:
        yield _row(total, "  ")


def _row(total: "Total", indent: str) -> tuple[str, ...]:
    return (
        f"{indent}{total.name}",
        duration(total.kernel),
        f"{total.share:.0%}",
        duration(total.seconds),
        str(total.calls),
        f"{total.flops / 1e6:.3g}" if total.flops else "",
        f"{total.bytes / 1e6:.3g}" if total.bytes else "",
        "" if total.of_limit is None else f"{total.of_limit:.0%}",
    )
