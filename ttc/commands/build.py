"""`ttc build`: engines from a bundle or an ONNX file."""

import json
import re
import sys
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from ttc.base.names import ENGINE_BACKENDS, ENGINE_FORMS
from ttc.commands.options import BundlePath, checkpoint_option, trust_option
from ttc.commands.tables import fitted
from ttc.commands.terminal import echo, paragraph, size
from ttc.errors import InputError

if TYPE_CHECKING:
    from ttc.exporter.engines.build_report import BuildReport, GraphReport
    from ttc.exporter.engines.foreign_plan import ForeignPlan
    from ttc.exporter.engines.network import NetworkTensor
    from ttc.exporter.engines.planning import BuildPlan

__all__ = ["build", "parse_shapes", "parse_targets"]

# 'name' or name, a colon, sizes with x between them. Sizes are as long as TensorRT's, 64 bits.
_SIZE = re.compile(r"\s*(?:'([^']+)'|([^,]|[^,].*?[^:])):(-?\d{1,18}(?:x-?\d{1,18})*)\s*(?:,|$)")
# How long the dry run of a foreign file lets the library try.
_TRY_SECONDS = 10.0


@click.command()
@click.argument("model", type=BundlePath())
@click.option(
    "-o", "--output", type=click.Path(path_type=Path), help="Folder of the engines [BUNDLE/engines]."
)
@click.option("--backend", type=click.Choice(ENGINE_BACKENDS), default="tensorrt-rtx", show_default=True)
@click.option(
    "--form",
    type=click.Choice(ENGINE_FORMS),
    default="whole",
    show_default=True,
    help="Whole graphs, or cut at the ttc ops.",
)
@click.option("--profile", help="Preset or TOML file [latency, fitted to the model].")
@click.option(
    "--compute-capability",
    "--sm",
    "sm",
    metavar="LIST",
    help="Compute capabilities to build for, as 89,120 [the profile's].",
)
@click.option(
    "--min-shapes",
    metavar="SIZES",
    help="Smallest sizes, as batch:1,capacity:128; of a foreign file x:1x3x32x32 or n:1.",
)
@click.option("--opt-shapes", metavar="SIZES", help="Sizes to tune for.")
@click.option("--max-shapes", metavar="SIZES", help="Largest sizes.")
@click.option("--shapes", metavar="SIZES", help="All three at once.")
@click.option("--bake", is_flag=True, help="Put the weights into the engines; for small models.")
@click.option(
    "--dry-run", is_flag=True, help="Say what would be built, what memory it needs, and what is in the way."
)
@click.option("--no-cache", is_flag=True, help="Build even what was built before.")
@click.option("--check-reproducible", is_flag=True, help="Build everything twice and compare the bytes.")
@click.option("--layers", is_flag=True, help="Also write the layers of every network.")
@click.option(
    "--sign", metavar="KEY", type=click.Path(path_type=Path), help="Sign with this ed25519 private key (PEM)."
)
@click.option(
    "--timing-cache",
    metavar="FILE",
    type=click.Path(path_type=Path),
    help="Start from these timings and update them (tensorrt).",
)
@click.option(
    "--plugins",
    metavar="FILE",
    multiple=True,
    type=click.Path(path_type=Path),
    help="Load plugins from this shared library or Python module first (tensorrt); may be repeated.",
)
@click.option("--tf32", is_flag=True, help="Let float32 products be computed in TF32 (foreign files).")
@click.option(
    "--log",
    metavar="FILE",
    type=click.Path(path_type=Path),
    help="Write everything that the library says to this file.",
)
@checkpoint_option
@trust_option
@click.option("--json", "as_json", is_flag=True, help="Print one JSON object.")
def build(
    model: Path,
    output: Path | None,
    backend: str,
    form: str,
    profile: str | None,
    sm: str | None,
    min_shapes: str | None,
    opt_shapes: str | None,
    max_shapes: str | None,
    shapes: str | None,
    bake: bool,
    dry_run: bool,
    no_cache: bool,
    check_reproducible: bool,
    layers: bool,
    sign: Path | None,
    timing_cache: Path | None,
    plugins: tuple[Path, ...],
    tf32: bool,
    log: Path | None,
    checkpoint: Path | None,
    trust: Path | None,
    as_json: bool,
) -> None:
    """Build TensorRT engines from MODEL, a bundle or an .onnx file."""
    from ttc.exporter.engines.build import build_engines
    from ttc.exporter.engines.build_settings import BuildSettings
    from ttc.exporter.engines.planning import BuildPlan, make_plan

    settings = BuildSettings(
        backend=backend,
        form=form,
        profile=profile,
        targets=None if sm is None else parse_targets(sm),
        shapes=parse_shapes({"": shapes, "min": min_shapes, "opt": opt_shapes, "max": max_shapes}),
        bake=bake,
        cache=not no_cache,
        check_reproducible=check_reproducible,
        layers=layers,
        sign=sign,
        timing_cache=timing_cache,
        plugins=plugins,
        tf32=tf32,
        log=log,
        checkpoint=checkpoint,
        trust=trust,
    )
    if dry_run:
        plan = make_plan(model, output, settings, try_seconds=_TRY_SECONDS)
        lines = _plan_lines(plan) if isinstance(plan, BuildPlan) else _foreign_lines(plan)
        _tell(plan.to_dict(), lines, as_json)
        if plan.problems:
            raise click.exceptions.Exit(1)
        return
    report = build_engines(model, output, settings, _progress())
    _tell(report.to_dict(), _report_lines(report), as_json)


def _tell(content: Mapping[str, Any], lines: Sequence[str], as_json: bool) -> None:
    if as_json:
        click.echo(json.dumps(content))
        return
    for line in lines:
        paragraph(line)


def parse_targets(text: str) -> tuple[str, ...]:
    """Return the compute capabilities in "89,120" or "8.9,12.0", without repetitions, as "8.9".

    Raises:
        InputError: a word is no compute capability.
    """
    found = []
    for word in text.split(","):
        digits = word.strip().replace(".", "")
        if not digits.isdecimal() or len(digits) < 2:
            raise InputError(
                f"--compute-capability {text!r}: {word!r} is no compute capability; "
                "valid: numbers like 89,120"
            )
        found.append(f"{digits[:-1]}.{digits[-1]}")
    return tuple(dict.fromkeys(found))


def parse_shapes(texts: Mapping[str, str | None]) -> dict[str, dict[str, int | tuple[int, ...]]]:
    """Return {"batch": {"max": 8}} for {"max": "batch:8"}, {"x": {"max": (1, 3)}} for {"max": "x:1x3"}.

    A name ends at the last colon before the sizes; one with a comma in it may stand between quotes ('a,b').

    Args:
        texts: "min", "opt" and "max" → sizes as the user wrote them; None: none. Those under "" are for all
            three.

    Raises:
        InputError: a part is not NAME:NUMBERxNUMBER….
    """
    found: dict[str, dict[str, int | tuple[int, ...]]] = {}
    for end, text in texts.items():
        at = 0
        while text and at < len(text):
            match = _SIZE.match(text, at)
            if match is None:
                option = f"--{end}-shapes" if end else "--shapes"
                raise InputError(
                    f"{option} {text!r}: {text[at:]!r} is no size; "
                    "valid: NAME:NUMBER, as batch:8,capacity:4096, or NAME:NUMBERxNUMBER…, as x:1x3x32x32"
                )
            sizes = tuple(int(number) for number in match[3].split("x"))
            for each in (end,) if end else ("min", "opt", "max"):
                found.setdefault(match[1] or match[2], {})[each] = sizes if len(sizes) > 1 else sizes[0]
            at = match.end()
    return found


def _progress() -> Callable[[str, int, int], None]:
    """Return what shows progress on standard error: a bar on a terminal, else a line per engine."""
    if not sys.stderr.isatty():
        told: set[str] = set()

        def line(what: str, done: int, total: int) -> None:
            if ":" not in what and done < total and what not in told:
                told.add(what)
                echo(f"building {what}", err=True)

        return line
    from rich.console import Console
    from rich.progress import Progress, TaskID

    bar = Progress(console=Console(stderr=True), transient=True)
    tasks: dict[str, TaskID] = {}
    bar.start()
    click.get_current_context().call_on_close(bar.stop)

    def show(what: str, done: int, total: int) -> None:
        if what not in tasks:
            tasks[what] = bar.add_task(what, total=total)
        bar.update(tasks[what], completed=done, total=total, visible=done < total)

    return show


def _plan_lines(plan: "BuildPlan") -> list[str]:
    profile = plan.profile
    lines = [
        f"{plan.build_input.path} → {plan.output}",
        f"backend   {plan.settings.backend} {plan.version or '(not installed)'}, form {plan.settings.form}",
        f"targets   {', '.join(plan.targets) or 'what the backend builds for by default'}",
        (
            f"profile   {profile.name}: batch {profile.batch}, block {profile.block}, chunk {profile.chunk}, "
            f"capacity {profile.capacity}"
        ),
    ]
    for graph in plan.graphs:
        memory = graph.memory
        lines.append(
            f"{graph.source.role:<9} weights {size(memory.weights)}, KV cache {size(memory.kv_cache)}, "
            f"Mamba state {size(memory.mamba_state)}, results {size(memory.results)}, work about "
            f"{size(memory.work)} on the GPU; about {graph.seconds:.0f} s to build"
        )
    for arrangement, gpus in plan.memory_per_gpu.items():
        needs = ", ".join(f"{who} {size(need)}" for who, need in gpus.items())
        lines.append(f"memory    on {arrangement} GPU{'s' * (len(gpus) > 1)}: {needs}")
    lines += [f"note      {note}" for note in plan.notes]
    lines += [f"problem   {problem}" for problem in plan.problems]
    return lines


def _foreign_lines(plan: "ForeignPlan") -> list[str]:
    lines = [
        f"{plan.file.path} → {plan.output}",
        f"backend   {plan.settings.backend} {plan.version or '(not installed)'}",
        f"targets   {', '.join(plan.targets) or 'what the backend builds for by default'}",
    ]
    if plan.network is not None:
        lines.append(f"network   {plan.network.layers} layers, {size(plan.file.size_bytes)} in the file")
        ranges = {tensor.name: tensor for tensor in plan.inputs}
        for tensor in plan.network.inputs:
            found = ranges.get(tensor.name)
            sizes = f"  min {found.min}, opt {found.opt}, max {found.max}" if found else ""
            lines.append(f"input     {_tensor(tensor)}{sizes}")
        lines += [f"output    {_tensor(tensor)}" for tensor in plan.network.outputs]
    if plan.tried:
        lines.append("trial     the library builds it")
    lines += [f"note      {note}" for note in plan.notes]
    lines += [f"problem   {problem}" for problem in plan.problems]
    return lines


def _tensor(tensor: "NetworkTensor") -> str:
    return f"{tensor.name}  {tensor.dtype} ({', '.join(map(str, tensor.shape))})"


def _report_lines(report: "BuildReport") -> list[str]:
    how = f"form {report.form}, {report.seconds:.1f} s"
    lines = [f"{report.output}: {report.backend} {report.backend_version}, {how}", ""]
    phases = tuple(dict.fromkeys(name for graph in report.graphs for name in graph.phases))
    head = ("graph", "engines", "size", "layers", "built", *phases, "peak memory")
    rows = [_report_row(graph, phases) for graph in report.graphs]
    if len(rows) > 1:
        sizes = [sum(graph.engines.values()) for graph in report.graphs]
        fresh = sum(graph.seconds for graph in report.graphs if not graph.cached)
        counts = (
            str(sum(number))
            for number in zip(*((len(g.engines), g.layers) for g in report.graphs), strict=True)
        )
        engines, layers = counts
        rows.append(("total", engines, size(sum(sizes)), layers, f"{fresh:.1f} s", *("" for _ in phases), ""))
    lines += fitted(rows, head, None)
    lines.append("")
    for graph in report.graphs:
        kinds = ", ".join(f"{kind} ×{count}" for kind, count in graph.layer_kinds.items())
        lines.append(f"layers of {graph.role}: {kinds}")
    if report.reproducible:
        lines.append("two builds gave the same bytes")
    return lines + [f"note: {note}" for note in report.notes]


def _report_row(graph: "GraphReport", phases: Sequence[str]) -> tuple[str, ...]:
    """Return a graph's line of the table."""
    times = (f"{graph.phases[name].seconds:.1f} s" if name in graph.phases else "" for name in phases)
    return (
        graph.role,
        str(len(graph.engines)),
        size(sum(graph.engines.values())),
        str(graph.layers),
        "from the cache" if graph.cached else f"{graph.seconds:.1f} s",
        *times,
        size(graph.peak_bytes) if graph.peak_bytes else "",
    )
