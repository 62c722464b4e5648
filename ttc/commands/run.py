"""`ttc run`: engines by themselves, timed on a GPU."""

import dataclasses
from pathlib import Path

import click

from ttc.commands.options import trust_option
from ttc.commands.terminal import columns, duration, echo, progress, write_json

__all__ = ["run"]

_PERCENTILES = (("p50", 0.5), ("p90", 0.9), ("p99", 0.99))


@click.command(short_help="Engines by themselves, timed on a GPU.")
@click.argument("engines", type=click.Path(path_type=Path))
@click.argument("names", nargs=-1, metavar="[NAME]...")
@click.option(
    "--at",
    "sizes",
    type=click.Choice(("min", "opt", "max")),
    default="opt",
    show_default=True,
    help="Which sizes of the build profile.",
)
@click.option("--iterations", type=click.IntRange(1, 10**6), default=100, show_default=True, metavar="N")
@click.option("--warm-up", type=click.IntRange(0, 10**6), default=10, show_default=True, metavar="N")
@click.option("--device", metavar="cuda|cuda:N", help="[default: cuda]")
@trust_option
@click.option("--json", "as_json", is_flag=True, help="Print one JSON object, with every time.")
def run(
    engines: Path,
    names: tuple[str, ...],
    sizes: str,
    iterations: int,
    warm_up: int,
    device: str | None,
    trust: Path | None,
    as_json: bool,
) -> None:
    """Run ENGINES, a folder that `ttc build` made, engine by engine, and show how long each takes.

    Inputs are zeros. Times lie between two events on the GPU's stream. NAME chooses engines; all otherwise.
    """
    from ttc.profiling.engine_times import time_engines

    with progress("loading", quiet=as_json) as say:
        found = time_engines(
            engines,
            names,
            sizes=sizes,
            iterations=iterations,
            warm_up=warm_up,
            device=device,
            trust=trust,
            progress=say,
        )
    if as_json:
        write_json({"sizes": sizes, "engines": [dataclasses.asdict(one) for one in found]})
        return
    echo(f"{engines}: {iterations} runs each after {warm_up}, sizes {sizes} of the build profile")
    rows = [
        (
            one.name,
            *(duration(one.percentile(share)) for _, share in _PERCENTILES),
            duration(one.seconds[0]),
            duration(one.seconds[-1]),
            ", ".join(f"{name} {'x'.join(map(str, shape))}" for name, shape in list(one.inputs.items())[:3]),
        )
        for one in found
    ]
    columns(rows, ("engine", *(name for name, _ in _PERCENTILES), "least", "most", "inputs"))
