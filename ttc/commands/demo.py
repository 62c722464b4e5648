"""`ttc demo`: the miniature end to end."""

import contextlib
import dataclasses
import tempfile
import time
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

import click

from ttc.base.names import BACKENDS, BackendName
from ttc.commands.results import result_json
from ttc.commands.terminal import columns, echo, folder_bytes, progress, size, waiting, write_json
from ttc.formats.shipped import shipped_bundle, shipped_checkpoint

if TYPE_CHECKING:
    from ttc.demo.miniature import Problem, Total
    from ttc.runtime.decoding.result import Result
    from ttc.runtime.engine import Engine

__all__ = ["demo"]


@click.command(short_help="The built-in miniature, end to end.")
@click.option("--backend", type=click.Choice(BACKENDS), default="onnxruntime", show_default=True)
@click.option("--prompts", type=int, default=3, show_default=True, metavar="N", help="How many problems.")
@click.option(
    "--export", "exports", is_flag=True, help="Begin with the checkpoint: export it first, which needs torch."
)
@click.option(
    "--keep", type=click.Path(path_type=Path), help="Keep the exported bundle in this folder (--export)."
)
@click.option("--json", "as_json", is_flag=True, help="Print one JSON object; no live view.")
@click.option(
    "--save-steps",
    type=click.Path(path_type=Path),
    metavar="FILE",
    help="Write the first problem's blocks filling as a picture that moves: .svg, .html or .gif.",
)
def demo(
    backend: BackendName,
    prompts: int,
    exports: bool,
    keep: Path | None,
    as_json: bool,
    save_steps: Path | None,
) -> None:
    """Watch the trained miniature that comes with ttc fill blocks, and compare diffusion with AR.

    Needs no GPU, no network and no torch; with --export it shows the way from the checkpoint, too.
    """
    from ttc.demo import miniature as work

    if save_steps is not None:
        from ttc.animation.save import check_format

        check_format(save_steps)
    with contextlib.ExitStack() as until_the_end:
        checkpoint = shipped_checkpoint()
        chosen = work.problems(checkpoint, prompts)
        if exports or keep:
            bundle = _export(checkpoint, _folder(keep, until_the_end), as_json)
        else:
            bundle = shipped_bundle()

        import ttc

        with waiting("loading the bundle", quiet=as_json):
            engine = until_the_end.enter_context(ttc.load(bundle, backend))
        if not as_json or save_steps is not None:
            _watch(engine, chosen[:1] if as_json else chosen, save_steps, quiet=as_json)
        with waiting("measuring", quiet=as_json):
            results = work.measure(engine, [problem.prompt for problem in chosen])
        totals = [work.total(mode, of_mode) for mode, of_mode in results.items()]
        if as_json:
            _write(bundle if keep else None, chosen, results, totals)
        else:
            _tell(totals, len(chosen), bundle if keep else None)


def _folder(keep: Path | None, until_the_end: contextlib.ExitStack) -> Path:
    """Return where the bundle goes: below the folder to keep, or below one that goes away."""
    if keep is not None:
        return keep
    return Path(until_the_end.enter_context(tempfile.TemporaryDirectory(prefix="ttc-demo-")))


def _export(checkpoint: Path, folder: Path, quiet: bool) -> Path:
    start = time.perf_counter()
    with progress("loading torch", quiet) as say:
        import ttc
        from ttc.errors import InputError

        try:
            folder.mkdir(parents=True, exist_ok=True)
        except OSError as fault:
            raise InputError(f"{folder}: cannot be made ({fault.strerror}); choose another --keep") from None
        # A second run may replace what the first one kept: only a bundle can be lost this way.
        bundle = ttc.export(checkpoint, folder / "miniature.bundle", force=True, progress=say)
    if not quiet:
        seconds = time.perf_counter() - start
        echo(f"exported the miniature in {seconds:.1f} s: a bundle of {size(folder_bytes(bundle))}")
    return bundle


def _watch(engine: "Engine", chosen: Sequence["Problem"], save: Path | None, quiet: bool) -> None:
    """Fill the problems' blocks before the reader's eyes; the first goes into the picture `save`."""
    from ttc.animation.live import StepView
    from ttc.commands.steps import play, recording
    from ttc.demo import miniature as work

    for problem in chosen:
        file = save if problem is chosen[0] else None
        view = None if quiet else StepView("diffusion", problem.prompt, engine.tokenizer)
        events = engine.stream(problem.prompt, max_new_tokens=work.MAX_NEW_TOKENS, threshold=work.THRESHOLD)
        with recording(file, "diffusion", problem.prompt, engine.tokenizer) as record:
            play(record(events), view, keep=True)
        if not quiet:
            echo(f"   it should be:{problem.answer}", err=True)


def _write(
    bundle: Path | None,
    chosen: Sequence["Problem"],
    results: dict[str, list["Result"]],
    totals: Sequence["Total"],
) -> None:
    runs = [
        {"prompt": problem.prompt, "answer": problem.answer}
        | {mode: result_json(of_mode[i]) for mode, of_mode in results.items()}
        for i, problem in enumerate(chosen)
    ]
    write_json(
        {
            "bundle": None if bundle is None else str(bundle),
            "runs": runs,
            "totals": {total.mode: dataclasses.asdict(total) for total in totals},
        }
    )


def _tell(totals: Sequence["Total"], prompts: int, bundle: Path | None) -> None:
    from ttc.demo import miniature as work

    click.echo()
    head = ("mode", "tokens", "NFE", "tokens/NFE", "context calls", "seconds", "tokens/s")
    columns([_row(total) for total in totals], head)
    diffusion, ar = totals
    faster = diffusion.tokens_per_second / ar.tokens_per_second
    each = diffusion.tokens / diffusion.nfe
    count = "One prompt" if prompts == 1 else f"{prompts} prompts"
    click.echo()
    click.echo(
        f"{count}, the same for both modes in turn, the median of {work.RUNS} runs after a warm-up.\n"
        f"One NFE is one evaluation of the denoiser; each settled {each:.1f} tokens on average, where\n"
        f"AR calls the context tower for every token. Here diffusion wrote {faster:.2f} times as many\n"
        "tokens a second as AR. The miniature shows how it works; it is no judge of the large\n"
        "model's quality."
    )
    if bundle is not None:
        click.echo()
        echo(f"the bundle is in {bundle}; try: ttc generate {bundle} --example story --show-steps")


def _row(total: "Total") -> tuple[str, ...]:
    per_nfe = "–" if total.tokens_per_nfe is None else f"{total.tokens_per_nfe:.2f}"
    return (
        total.mode,
        str(total.tokens),
        str(total.nfe),
        per_nfe,
        str(total.context_calls),
        f"{total.seconds:.2f}",
        f"{total.tokens_per_second:.0f}",
    )
