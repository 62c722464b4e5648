"""`ttc plan`: what a machine allows a model, before anything is run on it."""

import dataclasses
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from ttc.base.names import COMPUTE_DTYPES
from ttc.base.quantised import PLAIN, WRITTEN_FORMATS
from ttc.commands.options import BundlePath
from ttc.commands.plan_serve import serve_options, tell_service
from ttc.commands.terminal import Several, columns, decimal_size, echo, paragraph, write_json

if TYPE_CHECKING:
    from ttc.planning.forecast import Forecast, Pass, Question
    from ttc.planning.holding import Holding

__all__ = ["plan"]

_FORMATS = click.Choice((PLAIN, *WRITTEN_FORMATS))


@click.command(short_help="What a GPU allows a model: floors, ceilings, crossover.")
@click.argument("model", type=BundlePath(exists=True), required=False)
@click.option("--gpu", default="h200", show_default=True, metavar="NAME|FILE", help="'list' shows all.")
@click.option("--batch", type=Several(int), default="1,8,32", show_default=True, metavar="N,…")
@click.option(
    "--tokens-per-nfe", type=Several(float), default="2,3,4", show_default=True, metavar="R,…",
    help="What diffusion settles per evaluation: measure it with ttc bench.",
)  # fmt: skip
@click.option("--block-size", type=int, default=16, show_default=True, metavar="N")
@click.option("--context", type=int, default=1024, show_default=True, metavar="N", help="Tokens before.")
@click.option("--dtype", type=click.Choice(COMPUTE_DTYPES), help="[default: as the model's]")
@click.option("--experts", type=_FORMATS, help="Format of the routed experts.  [default: as stored]")
@click.option("--context-experts", type=_FORMATS, help="Of the context tower's alone.")
@click.option("--denoiser-experts", type=_FORMATS, help="Of the denoiser's alone.")
@click.option(
    "--overlap", type=float, default=0.0, show_default=True, metavar="O",
    help="How alike tokens of a block choose experts: 0 independent, 1 the same.",
)  # fmt: skip
@click.option("--dense", is_flag=True, help="Every expert runs on every token, as in ONNX Runtime.")
@click.option("--accepted", type=float, default=8.0, show_default=True, metavar="A", help="Lossless: kept.")
@click.option("--draft-steps", type=float, default=2.0, show_default=True, metavar="D", help="Lossless: NFE.")
@click.option("--json", "as_json", is_flag=True, help="Print one JSON object.")
@serve_options
def plan(
    model: Path | None,
    gpu: str,
    batch: tuple[int, ...],
    tokens_per_nfe: tuple[float, ...],
    dtype: str | None,
    experts: str | None,
    context_experts: str | None,
    denoiser_experts: str | None,
    overlap: float,
    dense: bool,
    as_json: bool,
    serving: Mapping[str, Any] | None,
    **use: Any,
) -> None:
    """Bytes, operations and shortest times of an AR step, a denoiser evaluation (NFE) and an extension.

    MODEL is a bundle, a checkpoint or a config.json; without it the released 30B model is planned for.
    Times are floors that no kernel can beat on that memory and arithmetic, tokens per second are ceilings.
    With --serve a service on such GPUs is simulated: the runtime's own scheduling over these floors.
    """
    from ttc.base.dtypes import numpy_dtype
    from ttc.planning.expert_formats import ExpertFormats
    from ttc.planning.experts import Routing
    from ttc.planning.forecast import Question, forecast, winning_batches
    from ttc.planning.holding import holding
    from ttc.planning.machines import known_machines, load_machine
    from ttc.planning.models import load_config, stored_formats

    if gpu == "list":
        known = known_machines()
        if as_json:
            write_json({key: dataclasses.asdict(machine) for key, machine in known.items()})
        else:
            columns([(key, machine.name, machine.source) for key, machine in known.items()])
        return
    if min(batch) < 1 or len(set(batch)) < len(batch):
        raise click.UsageError(f"--batch is {','.join(map(str, batch))}; valid: from 1, none of them twice.")
    name, config = load_config(model)
    computes_in = dtype or config.dtype
    # A model stored in a dtype that graphs do not compute in is planned for at two bytes.
    itemsize = numpy_dtype(computes_in).itemsize if computes_in in COMPUTE_DTYPES else 2
    stored = stored_formats(model, config)
    question = Question(
        config,
        load_machine(gpu),
        itemsize=itemsize,
        routing=Routing(overlap, dense),
        formats=ExpertFormats(
            context_experts or experts or stored.context, denoiser_experts or experts or stored.denoiser
        ),
        **use,
    )
    if serving is not None:
        tell_service(name, question, serving, as_json)
        return
    found = [forecast(question, size, tokens_per_nfe) for size in batch]
    held = holding(known_machines(), found[0].weight_bytes.values())
    wins = {rate: winning_batches(question, rate) for rate in tokens_per_nfe}
    if as_json:
        write_json(
            {
                "model": name,
                "gpu": dataclasses.asdict(question.machine),
                "assumed": {
                    "block_size": question.block_size,
                    "context": question.context,
                    "itemsize": itemsize,
                    "experts": dataclasses.asdict(question.formats),
                    "overlap": overlap,
                    "dense": dense,
                    "accepted": question.accepted,
                    "draft_steps": question.draft_steps,
                },
                "machines": [dataclasses.asdict(one) for one in held],
                "batches": [dataclasses.asdict(one) for one in found],
                "winning_batches": {f"{rate:g}": ends for rate, ends in wins.items()},
            }
        )
    else:
        _tell(name, question, found, wins)
        for line in (*_held_lines(held), *_suggestion(gpu, question)):
            paragraph(line)


def _tell(
    name: str, question: "Question", found: list["Forecast"], wins: dict[float, tuple[int, int] | None]
) -> None:
    weights = found[0].weight_bytes
    machine = question.machine
    limits = f"{machine.bytes_per_second / 1e12:g} TB/s, {machine.flops_per_second / 1e12:g} TFLOPS"
    columns(
        [
            ("model", name),
            ("machine", machine.name),
            ("limits", limits),
            ("source", machine.source),
            ("assumed", _assumed(question)),
            ("experts", str(question.formats)),
            (
                "weights",
                ", ".join(
                    [
                        *(
                            f"{decimal_size(count)} {tower.replace('_', ' ')}"
                            for tower, count in weights.items()
                        ),
                        f"{decimal_size(sum(weights.values()))} both",
                    ]
                ),
            ),
        ]
    )
    click.echo()
    passes = [
        (str(one.batch), what, *_pass_cells(of))
        for one in found
        for what, of in (("AR step", one.ar_step), ("NFE", one.nfe), ("extension", one.extension))
    ]
    columns(passes, ("batch", "pass", "GB", "GFLOP", "experts a layer", "floor ms", "limit"))
    click.echo()
    speeds = [row for one in found for row in _speed_rows(one, question.accepted)]
    columns(speeds, ("batch", "mode", "tokens/s at most", "speedup", "as fast as AR with"))
    click.echo()
    for one in found:
        if not one.fits:
            echo(f"batch {one.batch} needs {one.memory_bytes / 1e9:.1f} GB, more than this machine has.")
    for rate, ends in wins.items():
        where = "at no batch size" if ends is None else f"at batch {ends[0]} to {ends[1]}"
        paragraph(f"{rate:g} tokens/NFE: diffusion is faster than AR {where} (looked at: 1 to 4096).")


def _held_lines(held: Sequence["Holding"]) -> Iterator[str]:
    """Yield which machines hold both towers, one, none."""
    for what, text in (
        ("both", "both towers on one"),
        ("one", "a tower each on two"),
        ("none", "not a tower on one"),
    ):
        names = [
            f"{one.machine} ({abs(one.left_bytes) / 1e9:.1f} GB {'short' if what == 'none' else 'left'})"
            for one in held
            if one.holds == what
        ]
        if names:
            yield f"{text}: {', '.join(names)}"


def _suggestion(gpu: str, question: "Question") -> Iterator[str]:
    """Yield which format suits the machine where it has a preset that names one, and nothing was chosen."""
    from ttc.planning.expert_formats import ExpertFormats
    from ttc.planning.passes import tower_bytes
    from ttc.profiles.build_profile import build_preset_names, load_build_profile

    best = load_build_profile(gpu).experts[:1] if gpu in build_preset_names() else ()
    if best and best != (PLAIN,) and question.formats == ExpertFormats() and not question.routing.dense:
        both = sum(tower_bytes(question.config, question.itemsize, ExpertFormats(*best, *best)).values())
        yield f"--experts {best[0]} brings both towers to {decimal_size(both)} (ttc quantize)."


def _assumed(question: "Question") -> str:
    routing = question.routing
    alike = f"with overlap {routing.overlap:g}" if routing.overlap else "independently"
    experts = "all experts run on every token" if routing.dense else f"experts chosen {alike}"
    return (
        f"blocks of {question.block_size}, {question.context} tokens of context, "
        f"{question.itemsize} bytes per number, {experts}; lossless: {question.draft_steps:g} NFE a draft"
    )


def _pass_cells(of: "Pass") -> tuple[str, ...]:
    return (
        f"{of.bytes / 1e9:.2f}",
        f"{of.flops / 1e9:.1f}",
        f"{of.experts:.1f}",
        f"{1e3 * of.seconds:.3f}",
        of.limit,
    )


def _speed_rows(one: "Forecast", accepted: float) -> list[tuple[str, ...]]:
    batch, need, kept = str(one.batch), "no number of tokens/NFE", f", {accepted:g} tokens kept"
    if one.break_even is not None:
        need = f"{one.break_even:.2f} tokens/NFE"
    rows: list[tuple[str, ...]] = [(batch, "AR", f"{one.ar_tokens_per_second:.0f}", "1.00", "")]
    rows += [
        (
            batch,
            f"diffusion, {each.tokens_per_nfe:g} tokens/NFE",
            f"{each.tokens_per_second:.0f}",
            f"{each.over_ar:.2f}",
            need,
        )
        for each in one.diffusion
    ]
    for what, of in (("lossless", one.lossless), ("prompt lookup", one.prompt_lookup)):
        rows.append(
            (
                batch,
                what + kept,
                f"{of.tokens_per_second:.0f}",
                f"{of.over_ar:.2f}",
                f"{of.break_even:.2f} tokens kept a round",
            )
        )
    return rows
