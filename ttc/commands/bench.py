"""`ttc bench`: modes side by side, speed and quality."""

from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from ttc.base.files import check_writable, write_whole
from ttc.base.names import BACKENDS
from ttc.commands.options import BundlePath, device_option, trust_option
from ttc.commands.terminal import Several, columns, progress, write_json, wrote

if TYPE_CHECKING:
    from ttc.bench.schema import Report

__all__ = ["bench"]

# Of the miniature's problems, where nothing else is asked for: some seconds.
_OWN_PROBLEMS = 96


@click.command(short_help="Diffusion against AR and more: speed and quality.")
@click.argument("bundle", type=BundlePath(), required=False)
@click.option("--tasks", type=click.Path(path_type=Path), help="JSONL of prompts with checkers.")
@click.option(
    "--limit",
    "--problems",
    "limit",
    type=click.IntRange(min=1),
    metavar="N",
    help="Only N of them, evenly spread.",
)
@click.option("--modes", metavar="LIST", help="Of ar, diffusion, lossless, prompt-lookup.  [default: all]")
@click.option("--threshold", type=Several(float), default="0.9", show_default=True, metavar="γ,…")
@click.option("--steps", type=Several(int), metavar="N,…", help="[default: as many as the block has tokens]")
@click.option("--block-size", type=Several(int), default="16", show_default=True, metavar="N,…")
@click.option(
    "--grid", is_flag=True, help="All combinations; else each list is tried with the others' first."
)
@click.option("--draft-steps", type=int, metavar="N", help="Of lossless.  [default: auto]")
@click.option("--batch", type=Several(int), default="1", show_default=True, metavar="N,…")
@click.option("--repeats", type=click.IntRange(min=1), default=3, show_default=True, metavar="N")
@click.option(
    "--timed-prompts",
    "--timed",
    "timed_prompts",
    type=click.IntRange(min=1),
    metavar="N",
    help="On the clock.  [default: 24]",
)
@click.option("--max-new-tokens", type=click.IntRange(min=1), default=96, show_default=True, metavar="N")
@click.option("--temperature", type=float, default=0.0, show_default=True, metavar="X", help="0 is greedy.")
@click.option("--seed", type=click.IntRange(min=0), default=0, show_default=True, metavar="S")
@click.option("--backend", type=click.Choice(BACKENDS), default="onnxruntime", show_default=True)
@device_option
@click.option("--engines", type=click.Path(path_type=Path), help="Folder of TensorRT engines.")
@trust_option
@click.option("--checkpoint", type=click.Path(path_type=Path), help="Where it lies now, if moved.")
@click.option("--report", type=click.Path(path_type=Path), metavar="FILE.html", help="Page with plots.")
@click.option("-o", "--output", type=click.Path(path_type=Path), metavar="FILE.json", help="Write the JSON.")
@click.option(
    "--headline", is_flag=True, help="The built-in miniature: speedup and quality, without a BUNDLE."
)
@click.option("--json", "as_json", is_flag=True, help="Print one JSON object.")
@click.option(
    "--compare", nargs=2, type=click.Path(path_type=Path), metavar="A.json B.json", help="Compare two runs."
)
@click.option("--other-weights", is_flag=True, help="Compare though weights differ, as quantised ones do.")
def bench(
    bundle: Path | None,
    compare: tuple[Path, Path] | None,
    other_weights: bool,
    report: Path | None,
    output: Path | None,
    headline: bool,
    as_json: bool,
    **settings: Any,
) -> None:
    """Run every mode of the model in BUNDLE side by side: time, NFE, latencies, and right answers.

    AR is always among them. Without --tasks the prompts are random tokens: the times are good, the tokens
    per NFE are those of nonsense. `miniature` has problems of its own, of which 96 are taken then.
    """
    if (bundle is not None) + (compare is not None) + headline != 1:
        raise click.UsageError("give a BUNDLE, or --headline, or --compare with two files.")
    if other_weights and compare is None:
        raise click.UsageError("--other-weights goes with --compare only.")
    if compare is not None:
        _compare(compare, other_weights, as_json)
        return
    for target in (report, output):
        if target is not None:
            check_writable(target)
    if bundle is None:
        from ttc.commands.headline import headline as run_headline
        from ttc.commands.headline import tell

        found = run_headline({name: value for name, value in settings.items() if _given(name)}, as_json)
    else:
        with progress("loading the bundle", quiet=as_json) as say:
            from ttc.bench.session import Settings, run_bench

            found = run_bench(bundle, Settings(**_own_problems(bundle, _checked(settings))), say)
    try:
        _write(found, output, report)
    finally:  # what was measured is told, whatever became of the files
        if as_json:
            write_json(found.to_dict())
        elif headline:
            tell(found)
        else:
            _tell(found)


def _given(option: str) -> bool:
    return click.get_current_context().get_parameter_source(option) is not click.core.ParameterSource.DEFAULT


def _write(found: "Report", output: Path | None, report: Path | None) -> None:
    """Write the files that were asked for, each whole or not at all."""
    import json

    from ttc.bench.page import page

    try:
        if output is not None:
            write_whole(output, json.dumps(found.to_dict(), indent=1, allow_nan=False) + "\n")
            wrote(output)
    finally:
        if report is not None:
            write_whole(report, page(found))
            wrote(report)


def _own_problems(bundle: Path, settings: dict[str, Any]) -> dict[str, Any]:
    """Return the settings; of the miniature that comes with ttc with its problems, if none are given."""
    from ttc.formats import shipped

    if settings["tasks"] is not None or not shipped.is_shipped_bundle(bundle):
        return settings
    own = {"tasks": shipped.shipped_checkpoint() / "problems.jsonl"}
    return settings | own | {"limit": settings["limit"] or _OWN_PROBLEMS}


def _checked(settings: dict[str, Any]) -> dict[str, Any]:
    modes = settings.pop("modes")
    return settings | {"modes": None if modes is None else tuple(modes.split(","))}


def _tell(found: "Report") -> None:
    from ttc.bench import tables

    columns(tables.context(found))
    click.echo()
    columns(tables.answer_rows(found), tables.ANSWERS_HEAD)
    head, by_task = tables.task_rows(found)
    if by_task:
        click.echo()
        columns(by_task, head)
    click.echo()
    columns(tables.speed_rows(found), tables.SPEED_HEAD)


def _compare(files: tuple[Path, Path], other_weights: bool, as_json: bool) -> None:
    import dataclasses

    from ttc.bench import tables
    from ttc.bench.compare import compare
    from ttc.bench.schema import read_report

    names = (str(files[0]), str(files[1]))
    reports = [read_report(file) for file in files]
    found = compare(reports[0], reports[1], names, other_weights)
    if as_json:
        runs = [
            {
                "machine": dataclasses.asdict(one.machine),
                "conditions": dataclasses.asdict(one.conditions),
            }
            for one in reports
        ]
        write_json(
            {
                "files": list(names),
                "runs": runs,
                "cases": [dataclasses.asdict(one) for one in found],
            }
        )
    else:
        columns(tables.run_rows(names, reports), tables.RUNS_HEAD)
        click.echo()
        columns(tables.compare_rows(found), tables.COMPARE_HEAD)
