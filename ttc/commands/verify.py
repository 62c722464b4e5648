"""`ttc verify`: does a backend compute the model?"""

from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from ttc.commands.options import BundlePath, device_option, trust_option
from ttc.commands.terminal import columns, echo, progress, size, verdict, write_json
from ttc.errors import InputError

if TYPE_CHECKING:
    from ttc.verify.report import BackendReport, Report, WeightsCheck

__all__ = ["verify"]


@click.command(short_help="Hold backends against the reference, tower by tower and token by token.")
@click.argument("bundle", type=BundlePath())
@click.option("--backend", "backends", multiple=True, metavar="NAME", help="[default: all that run here]")
@device_option
@click.option("--engines", type=click.Path(path_type=Path), help="Engines.  [default: BUNDLE/engines]")
@trust_option
@click.option("--prompt", "prompts", multiple=True, metavar="TEXT", help="What to generate after.")
@click.option("--token-ids", "--ids", "ids", is_flag=True, help="--prompt is token ids with blanks between.")
@click.option("--max-new-tokens", type=int, default=32, show_default=True, metavar="N")
@click.option("--layers", is_flag=True, help="Compare every layer's residual stream.")
@click.option("--weights", is_flag=True, help="Read the content of every weight and shard.")
@click.option("--against-transformers", is_flag=True, help="Also hold transformers' NemotronH against it.")
@click.option(
    "--checkpoint",
    type=click.Path(path_type=Path),
    help="The checkpoint: where it lies now; for packed weights or a checkpoint what to compare them with.",
)
@click.option("--no-record", is_flag=True, help="Leave the bundle's verification.json as it is.")
@click.option("--json", "as_json", is_flag=True, help="Print one JSON object with every comparison.")
@click.pass_context
def verify(
    ctx: click.Context,
    bundle: Path,
    backends: tuple[str, ...],
    device: str | None,
    engines: Path | None,
    trust: Path | None,
    prompts: tuple[str, ...],
    ids: bool,
    max_new_tokens: int,
    layers: bool,
    weights: bool,
    against_transformers: bool,
    checkpoint: Path | None,
    no_record: bool,
    as_json: bool,
) -> None:
    """Compare what backends compute from BUNDLE with the reference, the towers in plain torch.

    Outputs, states and generated tokens are compared. Where something is wrong, the layer it begins in is
    named. Exit code 1 says that something is wrong, or that nothing could be compared.

    BUNDLE may be a checkpoint, too: with --weights all of it is read, quantised matrices are examined, and
    compared with the plain checkpoint that --checkpoint names.
    """
    if _is_checkpoint(bundle):
        if not weights:
            raise InputError(
                f"{bundle}: a checkpoint; --weights examines its weights, and its bundle (ttc export) is "
                "compared with the reference"
            )
        _checkpoint(ctx, bundle, checkpoint, as_json)
        return
    from ttc.verify.run import verify as run

    asked: Any = [_ids(prompt) for prompt in prompts] if ids else list(prompts)
    with progress("verifying", quiet=as_json) as say:
        report = run(
            bundle,
            backends or None,
            device=device,
            engines=engines,
            trust=trust,
            checkpoint=checkpoint,
            prompts=asked or None,
            max_new_tokens=max_new_tokens,
            layers=layers,
            weights=weights,
            against_transformers=against_transformers,
            record=not no_record,
            progress=say,
        )
    if as_json:
        write_json(report.to_dict())
    else:
        _show(report, layers)
    if report.stale:
        raise InputError("; ".join(report.stale))
    if not report.passed:
        ctx.exit(1)


def _is_checkpoint(path: Path) -> bool:
    return (path / "config.json").exists() and not (path / "bundle.json").exists()


def _checkpoint(ctx: click.Context, path: Path, plain: Path | None, as_json: bool) -> None:
    """Examine the weights of a checkpoint."""
    import dataclasses

    from ttc.verify.quantised import check_checkpoint

    with progress("examining", quiet=as_json) as say:
        found = check_checkpoint(path, plain, say)
    if as_json:
        weights = dataclasses.asdict(found) | {"passed": found.passed}
        write_json({"passed": found.passed, "checkpoint": str(path), "weights": weights})
    else:
        _show_weights(found)
        click.echo(f"verdict: {verdict(found.passed)}")
    if not found.passed:
        ctx.exit(1)


def _show_weights(found: "WeightsCheck") -> None:
    read = f"{found.tensors} tensors, {size(found.bytes)} read"
    echo(f"weights: {read}; {'; '.join(found.faults) or 'nothing wrong'}")
    for note in found.notes:
        echo(f"  note: {note}")


def _show(report: "Report", layers: bool) -> None:
    for backend in report.backends:
        echo(f"{backend.name} ({backend.version}, {backend.device}, in {backend.computes_in})")
        columns(_rows(backend), ("", "largest distance", "tolerance", "where"))
        columns(_generation(backend))
        if backend.finding is not None:
            echo(f"  it begins in the {backend.finding}")
        if layers:
            click.echo()
            columns(_layers(backend), ("layer", "largest distance", "tolerance", "call"))
        for note in backend.notes:
            echo(f"  note: {note}")
        click.echo()
    if report.skipped:
        echo("not checked here: " + "; ".join(f"{name} ({why})" for name, why in report.skipped.items()))
    if report.weights is not None:
        _show_weights(report.weights)
    if report.native is not None:
        native = report.native
        far = f"{native.distance:.2g}, tolerance {native.tolerance:g}"
        echo(f"{native.version}: context logits off by {far}")
    click.echo(f"verdict: {verdict(report.passed)}")


def _rows(backend: "BackendReport") -> Iterator[tuple[str, str, str, str]]:
    """Yield the worst of every kind of tensor."""
    groups: dict[tuple[str, str], list[Any]] = {}
    for item in backend.comparisons:
        what = "state" if item.tensor not in ("logits", "residual") else item.tensor
        whose = what if what == "state" else f"{item.tower} {what}"
        groups.setdefault((whose, item.reference), []).append(item)
    for (whose, reference), items in groups.items():
        worst = max(items, key=lambda c: c.distance / c.tolerance)
        layer = "" if worst.layer is None else f", layer {worst.layer} {worst.tensor}"
        mark = "" if worst.passed else "  WRONG"
        against = "" if reference == "float32" else f" against {reference}"
        yield (
            f"  {whose}{against}",
            f"{worst.distance:.2g}",
            f"{worst.tolerance:.2g}",
            f"{worst.call}{layer}{mark}",
        )


def _layers(backend: "BackendReport") -> Iterator[tuple[str, str, str, str]]:
    found: dict[tuple[str, int], Any] = {}
    for item in backend.comparisons:
        if item.tensor == "residual" and item.layer is not None and item.reference == "float32":
            key = (item.tower, item.layer)
            if key not in found or item.distance > found[key].distance:
                found[key] = item
    for (tower, layer), item in sorted(found.items()):
        yield f"  {tower} {layer}", f"{item.distance:.2g}", f"{item.tolerance:.2g}", item.call


def _generation(backend: "BackendReport") -> Iterator[tuple[str, str]]:
    for mode in dict.fromkeys(check.mode for check in backend.generation):
        checks = [check for check in backend.generation if check.mode == mode]
        total = sum(check.tokens for check in checks)
        same = round(sum(check.agreement * check.tokens for check in checks))
        yield f"  tokens, {mode}", f"{same} of {total} equal, {len(checks)} prompts"
        for check in checks:
            if check.first_difference is not None:
                margin = "" if check.margin is None else f", decided by {check.margin:.2g} of logits"
                first = f"token {check.first_difference}: {check.got} for {check.due}{margin}"
                allowed = "allowed in this dtype, or a tie" if check.passed else "WRONG"
                yield "", f"prompt {check.prompt}, {first} ({allowed})"


def _ids(prompt: str) -> list[int]:
    try:
        return [int(word) for word in prompt.split()]
    except ValueError:
        raise InputError(
            f"--prompt {prompt[:40]!r} with --token-ids: token ids with blanks between are expected"
        ) from None
