"""`ttc inspect`: what is in a file or folder."""

import re
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import click

from ttc.commands.options import BundlePath, checkpoint_option, trust_option
from ttc.commands.terminal import columns, echo, size, write_json
from ttc.formats.strictjson import quoted
from ttc.profiles.build_profile import DIMENSIONS, Range

__all__ = ["inspect"]

_MAX_ROWS = 40


@click.command(short_help="What is in a bundle, a checkpoint, engines, an ONNX or .safetensors file.")
@click.argument("path", type=BundlePath())
@checkpoint_option
@trust_option
@click.option("--layers", is_flag=True, help="Show every layer: of the model, or of an engine's network.")
@click.option(
    "--diff",
    "other",
    type=click.Path(path_type=Path),
    metavar="OTHER",
    help="Show only what differs in OTHER; exit code 1 where something does.",
)
@click.option("--json", "as_json", is_flag=True, help="Print one JSON object with everything.")
@click.pass_context
def inspect(
    ctx: click.Context,
    path: Path,
    checkpoint: Path | None,
    trust: Path | None,
    layers: bool,
    other: Path | None,
    as_json: bool,
) -> None:
    """Say what PATH holds: a bundle, a checkpoint folder, a set of engines, an .onnx, .safetensors,
    .engine or .program.json file, or a build profile (.toml, or the name of one that comes with ttc).

    Digests and a checkpoint's tensors are checked on the way.
    """
    from ttc.inspection import describe

    found = describe(path, checkpoint, trust)
    if other is not None:
        ctx.exit(_diff(found, describe(other, checkpoint, trust), as_json))
    if as_json:
        write_json(found)
        return
    columns([("kind", found["kind"]), ("path", found["path"]), *_SECTIONS[found["kind"]](found)])
    if trust is not None:
        columns([("signed", f"by the key in {trust}")])
    if layers:
        _layers(found)
    if found["kind"] == "bundle":
        for role, graph in found["graphs"].items():
            click.echo()
            echo(f"{role} ({graph['file']})")
            columns(_graph(graph))
    if found["kind"] == "safetensors":
        _tensors(found["tensors"])


def _bundle(found: Mapping[str, Any]) -> Iterator[tuple[str, str]]:
    weights = found["weights"]
    made_with = ", ".join(f"{name} {version}" for name, version in found["created_by"].items())
    yield "format", f"version {found['format_version']}, by ttc {found['ttc_version']} ({made_with})"
    yield "source", ", ".join(f"{name} {text}" for name, text in found["source"].items())
    yield from _model(found)
    yield "compute dtype", found["compute_dtype"]
    yield "weights", f"{weights['mode']}: {weights['count']} made of {weights['tensors']} checkpoint tensors"
    yield "", _bytes(found["bytes_by_dtype"])
    if weights["root"] is not None:
        files = "one file" if weights["shards"] == 1 else f"{weights['shards']} files"
        yield "", f"from {files} ({size(weights['shard_bytes'])}) in {weights['root']}"
    yield "ttc ops", ", ".join(f"{name} v{version}" for name, version in found["ops"].items())
    yield "signature", "present" if found["signed"] else "none"
    yield "verified", _verified(found["verification"])
    yield "files", f"{len(found['files'])}, all digests checked"


def _checkpoint(found: Mapping[str, Any]) -> Iterator[tuple[str, str]]:
    yield from _model(found)
    yield "stored", _bytes(found["bytes_by_dtype"])
    files = "one file" if len(found["shards"]) == 1 else f"{len(found['shards'])} files"
    yield "tensors", f"{found['tensors']} in {files}, none missing, none unexpected"
    for shard in found["shards"][:_MAX_ROWS]:
        yield "", f"{shard['file']}  {shard['tensors']} tensors  {size(shard['size_bytes'])}"
    if len(found["shards"]) > _MAX_ROWS:
        yield "", f"and {len(found['shards']) - _MAX_ROWS} more (--json has all)"
    for note in found["notes"]:
        yield "note", note


def _safetensors(found: Mapping[str, Any]) -> Iterator[tuple[str, str]]:
    yield "size", size(found["size_bytes"])
    yield "header", f"sha256 {found['header_sha256']}"
    yield "parameters", f"{found['parameters']['total']:,} in {len(found['tensors'])} tensors"
    yield "stored", _bytes(found["bytes_by_dtype"])


def _model(found: Mapping[str, Any]) -> Iterator[tuple[str, str]]:
    model, parameters = found["model"], found["parameters"]
    kinds = ", ".join(f"{count} {kind}" for kind, count in found["layers"].items() if kind != "total")
    yield "layers", f"{found['layers']['total']} in each tower: {kinds}"
    yield "pattern", model["pattern"]
    yield "sizes", f"hidden {model['hidden_size']}, vocabulary {model['vocab_size']}"
    if model["n_routed_experts"]:
        chosen = model["num_experts_per_tok"]
        yield "experts", f"{model['n_routed_experts']} in each layer, {chosen} per token, and a shared one"
    yield (
        "tokens",
        f"at most {model['max_position_embeddings']} in a sequence; mask id {model['mask_token_id']}",
    )
    yield "parameters", f"{parameters['context_tower']:,} context tower"
    yield "", f"{parameters['denoiser_tower']:,} denoiser tower"
    for kind, row in found["by_kind"].items():
        yield "", f"{row['parameters']:,} in {kind} ({size(row['bytes'])})"
    for i, row in enumerate(found["formats"]):
        whose = "of routed experts" if row["experts"] else "of other layers"
        text = f"{row['matrices']} matrices {whose} in {row['format']}, {row['tower'].replace('_', ' ')}"
        yield "formats" if i == 0 else "", text
    tokens = found["tokenizer"]
    yield "tokenizer", "none: ids only" if tokens is None else f"{tokens} tokens"


def _onnx(found: Mapping[str, Any]) -> Iterator[tuple[str, str]]:
    texts = {name: text for name, text in found["metadata"].items() if isinstance(text, str)}
    for name, text in texts.items():
        yield name, text if len(text) <= 200 else f"{text[:200]}… ({len(text)} characters)"
    yield from _graph(found)


def _graph(found: Mapping[str, Any]) -> Iterator[tuple[str, str]]:
    weights = found["weights"]
    yield "size", f"{size(found['size_bytes'])}, sha256 {found['sha256']}"
    opsets = ", ".join(f"{domain} {version}" for domain, version in found["opsets"].items())
    yield "opsets", f"{opsets}; IR {found['ir_version']}"
    for label, key in (("inputs", "inputs"), ("outputs", "outputs")):
        for i, line in enumerate(_values(found[key])):
            yield label if i == 0 else "", line
    counts = [f"{weights[where]} as {where}" for where in ("initializers", "inputs") if weights[where]]
    total = _bytes(weights["bytes_by_dtype"])
    yield "weights", ", ".join([*counts, total]) if counts else "none"
    if weights["external_files"]:
        yield "", f"values in {', '.join(weights['external_files'])}"
    own = {name: count for name, count in found["ops"].items() if "::" in name}
    plain = {name: count for name, count in found["ops"].items() if "::" not in name}
    yield "ops", ", ".join(f"{name} ×{count}" for name, count in own.items()) or "of no domain but ONNX's own"
    if plain:
        yield "", ", ".join(f"{name} ×{count}" for name, count in plain.items())
    yield "functions", ", ".join(found["functions"]) or "none"


def _values(values: Sequence[Mapping[str, Any]]) -> Iterator[str]:
    """One line per input or output; those that differ only in their layer's number share one."""
    groups: dict[str, list[Mapping[str, Any]]] = {}
    for value in values:
        groups.setdefault(re.sub(r"\.\d+$", ".*", str(value["name"])), []).append(value)
    for name, group in groups.items():
        kinds = dict.fromkeys(f"{value['dtype']} {_shape(value['shape'])}" for value in group)
        yield f"{name}  {' or '.join(kinds)}" + (f"  ×{len(group)}" if name.endswith(".*") else "")


def _shape(shape: Sequence[int | str | None] | None) -> str:
    return "of any shape" if shape is None else f"({', '.join('?' if d is None else str(d) for d in shape)})"


def _bytes(by_dtype: Mapping[str, int]) -> str:
    return ", ".join(f"{size(count)} {dtype}" for dtype, count in by_dtype.items()) or "no bytes"


def _tensors(tensors: Sequence[Mapping[str, Any]]) -> None:
    click.echo()
    columns((tensor["name"], tensor["dtype"], str(tensor["shape"])) for tensor in tensors[:_MAX_ROWS])
    if len(tensors) > _MAX_ROWS:
        echo(f"and {len(tensors) - _MAX_ROWS} more (--json has all)")


def _engines(found: Mapping[str, Any]) -> Iterator[tuple[str, str]]:
    yield from _built(found)
    if found["profile"]:  # a foreign model has ranges of its inputs instead
        yield from _ranges(found["profile"])
    yield "kernels", f"sources of {len(found['kernels'])} ttc ops" if found["kernels"] else "none"
    yield "signature", "present" if found["signed"] else "none"
    yield "verified", _verified(found["verification"])
    for name, digest in found["sources"].items():
        yield "source", f"{name}  sha256 {digest}"
    for name, engine in found["engines"].items():
        what = f"{engine['layers']} layers, {engine['weights']} weights as inputs"
        yield "engine", f"{name} ({engine['role']})  {what}, {size(engine['size_bytes'])}"
        if not found["profile"]:
            yield from _tensors_of(engine)
    for role, program in found["programs"].items():
        yield "program", f"{role}: {_steps(program)}"


def _build_profile(found: Mapping[str, Any]) -> Iterator[tuple[str, str]]:
    yield from _ranges(found["profile"])
    yield "precision", found["profile"]["precision"]
    yield "experts", ", ".join(found["profile"]["experts"]) or "no format is suggested"
    yield "targets", ", ".join(found["profile"]["targets"]) or "what the backend builds for by default"


def _ranges(profile: Mapping[str, Any]) -> Iterator[tuple[str, str]]:
    """Yield a build profile: its name, and the sizes that its engines take."""
    yield "profile", str(profile.get("name", "unnamed"))
    for name in DIMENSIONS:
        if name in profile:
            yield "", f"{name} {_range(profile[name])}"


def _range(sizes: object) -> str:
    """Return the sizes of one dimension in words; as they are where they are none."""
    match sizes:
        case {"min": int() as low, "opt": int() as usual, "max": int() as high, **rest} if not rest:
            return str(Range(low, usual, high))
    return quoted(sizes)


def _engine(found: Mapping[str, Any]) -> Iterator[tuple[str, str]]:
    yield from _built(found)
    yield "role", found["role"]
    yield "layers", f"{found['layers']}, {found['weights']} weights as inputs"
    yield "size", f"{size(found['size_bytes'])}, sha256 {found['sha256']}"
    yield from _tensors_of(found)


def _tensors_of(engine: Mapping[str, Any]) -> Iterator[tuple[str, str]]:
    """Yield the inputs and outputs of an engine; of an output whose sizes only the library knows no range."""
    for label in ("inputs", "outputs"):
        for i, tensor in enumerate(engine[label]):
            ranges = f"  min {tensor['min']}, opt {tensor['opt']}, max {tensor['max']}"
            if label == "outputs" and any(size < 0 for size in tensor["max"]):
                ranges = ""
            kind = " (its values are given)" if tensor["kind"] == "shape" else ""
            shape = f"{tensor['name']}  {tensor['dtype']} {_shape(tensor['shape'])}{kind}"
            yield label if i == 0 else "", f"{shape}{ranges}"


def _built(found: Mapping[str, Any]) -> Iterator[tuple[str, str]]:
    yield "built by", f"{found['backend']} {found['backend_version']}, ttc {found['ttc_version']}"
    yield "form", f"{found['form']}, weights {'inside' if found['baked'] else 'as inputs'}"
    yield "targets", ", ".join(found["targets"]) or "what the backend builds for by default"
    yield "compute dtype", found["compute_dtype"] or "unknown: a foreign graph"


def _program(found: Mapping[str, Any]) -> Iterator[tuple[str, str]]:
    yield "steps", _steps(found)
    launches = found["kernel_launches"].items()
    yield "launches", ", ".join(f"{name} ×{count}" for name, count in launches)
    yield "buffers", ", ".join(f"{count} {role}" for role, count in found["buffers"].items())


def _steps(program: Mapping[str, Any]) -> str:
    calls, launches = (sum(program[key].values()) for key in ("engine_calls", "kernel_launches"))
    engines = len(program["engine_calls"])
    return f"{program['steps']} steps: {calls} calls of {engines} engines, {launches} kernel launches"


def _layers(found: Mapping[str, Any]) -> None:
    click.echo()
    if "by_layer" in found:
        rows = (
            (
                str(row["layer"]),
                row["kind"],
                f"{row['context_tower']:,}",
                f"{row['denoiser_tower']:,}",
                size(row["bytes"]),
            )
            for row in found["by_layer"]
        )
        columns(rows, ("layer", "kind", "context tower", "denoiser tower", "bytes"))
        return
    engines = found["engines"] if found["kind"] == "engines" else {"": found}
    for name, engine in engines.items():
        if name:
            echo(name)
        listed = engine.get("layer_list")
        if listed:
            columns([tuple(map(str, layer)) for layer in listed])
        else:
            echo("no list of layers was kept")


def _verified(verification: Mapping[str, Any] | None) -> str:
    if verification is None:
        return "no record of it as it is now; ttc verify makes one"
    passed = (
        f"{name} {'passed' if record['passed'] else 'FAILED'} {record['finished']}"
        for name, record in verification.items()
    )
    return ", ".join(passed)


def _diff(found: Mapping[str, Any], other: Mapping[str, Any], as_json: bool) -> int:
    """Show what differs; exit code."""
    from ttc.inspection.diff import differences

    changed = differences(found, other)
    if as_json:
        rows = [{"key": key, "first": a, "second": b} for key, a, b in changed]
        write_json({"same": not changed, "differences": rows})
    elif not changed:
        echo("no difference")
    else:
        columns([(key, _short(a), _short(b)) for key, a, b in changed], ("", found["path"], other["path"]))
    return int(bool(changed))


def _short(value: object) -> str:
    text = "–" if value is None else str(value)
    return text if len(text) <= 60 else f"{text[:57]}…"


_SECTIONS = {
    "bundle": _bundle,
    "checkpoint": _checkpoint,
    "safetensors": _safetensors,
    "onnx": _onnx,
    "engines": _engines,
    "engine": _engine,
    "program": _program,
    "profile": _build_profile,
}
