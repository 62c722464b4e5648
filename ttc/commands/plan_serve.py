"""`ttc plan --serve`: its options, and what it prints."""

import dataclasses
import functools
import os
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click
from click.core import ParameterSource

from ttc.commands.terminal import columns, echo, waiting, write_json

if TYPE_CHECKING:
    from ttc.planning.forecast import Question
    from ttc.planning.simulation.figures import Figures
    from ttc.planning.simulation.service import ServicePlan

__all__ = ["serve_options", "tell_service"]

_OPTIONS = (
    click.option("--rate", type=float, metavar="R", help="Requests a second, at random times.  [default: 4]"),
    click.option("--clients", type=int, metavar="N", help="Instead: clients that ask again when answered."),
    click.option("--trace", type=click.Path(path_type=Path, exists=True, dir_okay=False),
                 help="Instead: a JSON object a line: at_seconds, prompt_tokens, answer_tokens."),
    click.option("--minutes", type=float, default=2.0, show_default=True, metavar="M"),
    click.option("--prompt-tokens", default="512", show_default=True, metavar="LENGTHS",
                 help="N, A-B, exp:MEAN or lognormal:MEDIAN,SIGMA."),
    click.option("--answer-tokens", default="200", show_default=True, metavar="LENGTHS"),
    click.option("--max-new-tokens", type=int, default=1024, show_default=True, metavar="N",
                 help="What every request reserves."),
    click.option("--row-tokens", type=int, default=4096, show_default=True, metavar="N",
                 help="Prompt and answer together, at most."),
    click.option("--modes", default="ar,diffusion,lossless", show_default=True, metavar="MODE,…"),
    click.option("--steps", type=int, metavar="N",
                 help="Denoise steps of every block.  [default: the published distribution]"),
    click.option("--replicas", type=int, default=1, show_default=True, metavar="N"),
    click.option("--rows", type=int, default=32, show_default=True, metavar="N", help="Rows of a replica."),
    click.option("--prompt-budget", type=int, default=1024, show_default=True, metavar="N",
                 help="Prompt tokens read in a tick."),
    click.option("--extend-when", type=int, metavar="K",
                 help="Read full blocks when K rows wait with one.  [default: a quarter of those that run]"),
    click.option("--p95", type=float, metavar="SECONDS",
                 help="Search the replicas with which 95 % of the answers take no longer."),
    click.option("--efficiency", type=float, default=1.0, show_default=True, metavar="E",
                 help="Share of the floors' speed that calls reach."),
    click.option("--call-us", type=float, default=0.0, show_default=True, metavar="US",
                 help="Microseconds that every call costs beside."),
    click.option("--tick-us", type=float, default=0.0, show_default=True, metavar="US",
                 help="… and every tick: the host's work."),
    click.option("--seed", type=int, default=0, show_default=True),
)  # fmt: skip
_NAMES = (
    "rate",
    "clients",
    "trace",
    "minutes",
    "prompt_tokens",
    "answer_tokens",
    "max_new_tokens",
    "row_tokens",
    "modes",
    "steps",
    "replicas",
    "rows",
    "prompt_budget",
    "extend_when",
    "p95",
    "efficiency",
    "call_us",
    "tick_us",
    "seed",
)
# Options of `ttc plan` that a simulation has no use for: it has batches and contexts of its own.
_UNUSED = ("batch", "context")
# Published: docs/model.md, Real sizes, at a threshold of 0.9.
_TOKENS_PER_NFE = 2.65


def serve_options(command: Callable[..., None]) -> Callable[..., None]:
    """Give a command `--serve` and its options, and as `serving` what was given; None without `--serve`."""

    @functools.wraps(command)
    def with_serving(*, serve: bool, tokens_per_nfe: tuple[float, ...], **given: Any) -> None:
        serving = {name: given.pop(name) for name in _NAMES}
        refused = _UNUSED if serve else _NAMES
        for name in refused:
            if _was_given(name):
                how = "goes without" if serve else "needs"
                raise click.UsageError(f"--{name.replace('_', '-')} {how} --serve.")
        if serve:
            serving["tokens_per_nfe"] = _TOKENS_PER_NFE
            if _was_given("tokens_per_nfe"):
                if len(tokens_per_nfe) != 1:
                    raise click.UsageError("--tokens-per-nfe is one number with --serve.")
                (serving["tokens_per_nfe"],) = tokens_per_nfe
        command(tokens_per_nfe=tokens_per_nfe, serving=serving if serve else None, **given)

    for option in reversed(_OPTIONS):
        with_serving = option(with_serving)
    return click.option("--serve", is_flag=True, help="Simulate a service; the options below go with it.")(
        with_serving
    )


def tell_service(name: str, question: "Question", serving: Mapping[str, Any], as_json: bool) -> None:
    """Simulate the service and print what came of it."""
    from ttc.planning.simulation.lengths import Lengths
    from ttc.planning.simulation.service import ServiceQuestion, plan_service

    use = dict(serving)
    if use["rate"] is None and use["clients"] is None and use["trace"] is None:
        use["rate"] = 4.0
    asked = ServiceQuestion(
        prompt_tokens=Lengths.parse(use.pop("prompt_tokens")),
        answer_tokens=Lengths.parse(use.pop("answer_tokens")),
        modes=tuple(use.pop("modes").split(",")),
        call_seconds=1e-6 * use.pop("call_us"),
        tick_seconds=1e-6 * use.pop("tick_us"),
        **use,
    )
    with waiting("simulating", quiet=as_json):
        found = plan_service(question, asked, os.cpu_count() or 1)
    if as_json:
        said = {key: str(value) if isinstance(value, Path) else value for key, value in serving.items()}
        write_json(
            {
                "model": name,
                "gpu": dataclasses.asdict(question.machine),
                "experts": dataclasses.asdict(question.formats),
                "asked": said | {"rate": asked.rate},
                **dataclasses.asdict(found),
            }
        )
    else:
        _tell(name, question, {**serving, "rate": asked.rate}, found)


def _tell(name: str, question: "Question", said: dict[str, Any], found: "ServicePlan") -> None:
    added = f", {said['call_us']:g} µs a call and {said['tick_us']:g} µs a tick added"
    steps = f"{said['steps']} steps a block"
    if said["steps"] is None:
        steps = f"published steps per block at {said['tokens_per_nfe']:g} tokens/NFE"
    rows = f"{said['rows']} rows"
    if said["extend_when"] is not None:
        rows += f", blocks read when {said['extend_when']} wait"
    replicas = f"{said['replicas']} × {_gpus(found.gpus_per_replica)} ({question.machine.name})"
    drafts = f"lossless: {question.accepted:g} tokens kept of {question.draft_steps:g} draft steps"
    speed = f"not measured: floors of every call at {said['efficiency']:.0%} of their speed"
    columns(
        [
            ("service", f"{name}, experts {question.formats}; {replicas}"),
            ("load", f"{_load(said)}: {found.requests} requests"),
            ("lengths", _lengths(said)),
            ("assumed", f"{rows}; {steps}; {drafts}"),
            ("simulated", speed + (added if said["call_us"] or said["tick_us"] else "")),
        ]
    )
    click.echo()
    columns(
        [(mode, *_cells(plan.figures)) for mode, plan in found.modes.items()],
        ("mode", "tokens/s", "first block p50, s", "p95", "answer p50, s", "p95", "rows", "queue", "backlog"),
    )
    click.echo()
    remarks = [
        f"{mode}: {plan.figures.backlog} requests waited when the last came: overloaded."
        for mode, plan in found.modes.items()
        if plan.figures.backlog > said["rows"] * said["replicas"]
    ]
    if said["p95"] is not None:
        remarks += [
            f"{mode}: {_held(said['p95'], plan.replicas, plan.held, found.gpus_per_replica)}"
            for mode, plan in found.modes.items()
        ]
    for remark in remarks:
        echo(remark)
    if found.by_clients:
        if remarks:
            click.echo()
        modes = list(found.modes)
        speeds = [
            (str(clients), *(f"{figures[mode].tokens_per_second:.0f}" for mode in modes))
            for clients, figures in found.by_clients.items()
        ]
        columns(speeds, ("clients", *(f"{mode}, tokens/s" for mode in modes)))
        click.echo()
    for crossing in found.crossings:
        where = "at none of these" if crossing.first is None else f"from {crossing.first} clients on"
        echo(f"{crossing.mode} gives more tokens a second than ar {where}.")


def _load(said: Mapping[str, Any]) -> str:
    if said["trace"] is not None:
        return f"{said['trace']}"
    if said["clients"] is not None:
        return f"{said['clients']} clients for {said['minutes']:g} min"
    return f"{said['rate']:g} requests/s for {said['minutes']:g} min"


def _lengths(said: Mapping[str, Any]) -> str:
    if said["trace"] is not None:
        return f"as in the trace; at most {said['max_new_tokens']} new tokens"
    return (
        f"prompts {said['prompt_tokens']}, answers {said['answer_tokens']} tokens, "
        f"at most {said['max_new_tokens']}"
    )


def _cells(figures: "Figures") -> tuple[str, ...]:
    return (
        f"{figures.tokens_per_second:.0f}",
        f"{figures.first_p50:.3g}",
        f"{figures.first_p95:.3g}",
        f"{figures.whole_p50:.3g}",
        f"{figures.whole_p95:.3g}",
        f"{figures.rows_mean:.1f}",
        f"{figures.queue_mean:.1f}",
        str(figures.backlog),
    )


def _held(p95: float, replicas: int | None, figures: "Figures | None", gpus: int) -> str:
    if replicas is None or figures is None:
        return f"no number of replicas answers 95 % within {p95:g} s"
    who = "1 replica answers" if replicas == 1 else f"{replicas} replicas answer"
    return f"{who} 95 % within {p95:g} s ({_gpus(replicas * gpus)}, {figures.whole_p95:.3g} s)"


def _gpus(count: int) -> str:
    return "1 GPU" if count == 1 else f"{count} GPUs"


def _was_given(name: str) -> bool:
    source = click.get_current_context().get_parameter_source(name)
    return source not in (None, ParameterSource.DEFAULT)
