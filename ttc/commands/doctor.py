"""`ttc doctor`: what this machine can do."""

import dataclasses
from collections.abc import Iterator, Mapping
from typing import Any

import click

from ttc.base.quantised import PLAIN
from ttc.commands.terminal import columns, echo, size, write_json

__all__ = ["doctor"]


@click.command(short_help="What this machine can do, and what to install for the rest.")
@click.option("--json", "as_json", is_flag=True, help="Print one JSON object.")
def doctor(as_json: bool) -> None:
    """Say what ttc can do on this machine, and what to install for the rest."""
    from ttc.doctor.abilities import examine

    found = examine()
    found["expert_formats"] = list(_expert_formats(found["gpu"]))
    if as_json:
        write_json(found)
        return
    columns(_machine(found))
    click.echo()
    packages = found["packages"].items()
    columns(
        [(name, item["fault"] or item["version"] or "–", item["use"]) for name, item in packages],
        ("package", "version", "for"),
    )
    click.echo()
    columns(
        [("yes" if a["works"] else "no", a["what"], a["why"]) for a in found["abilities"]], ("here", "", "")
    )
    for gpu in found["expert_formats"]:
        click.echo()
        echo(f"{gpu['gpu']}: the released model, by the format of its experts")
        columns(map(_format_cells, gpu["formats"]), ("experts", "decoded", "both towers", ""))
    remedies = list(_remedies(found))
    if remedies:
        click.echo()
        echo("to get the rest:")
        columns(remedies)
    for warning in found["warnings"]:
        click.echo()
        echo(f"warning: {warning}")


def _machine(found: Mapping[str, Any]) -> Iterator[tuple[str, str]]:
    cpu, memory, gpu = found["cpu"], found["memory_bytes"], found["gpu"]
    yield "ttc", found["ttc"]
    yield "python", f"{found['python']} ({found['executable']})"
    yield "system", found["system"]
    yield "cpu", f"{cpu['name']}, {cpu['usable_cores']} of {cpu['cores']} cores usable"
    yield "memory", "unknown" if memory is None else size(memory)
    if gpu is None:
        yield "gpu", "no NVIDIA GPU (nvidia-smi is not there or names none)"
    else:
        for i, device in enumerate(gpu["devices"]):
            capability = device["compute_capability"]
            what = f"{device['name']}, {device['memory_mib']} MiB, compute capability {capability}"
            yield "gpu" if i == 0 else "", what
        yield "driver", gpu["driver"]
    if found["cuda_driver"] is not None:
        yield "cuda", f"{found['cuda_driver']['cuda']} (the highest that the driver takes)"
    if found["onnxruntime_providers"]:
        yield "providers", f"{', '.join(found['onnxruntime_providers'])} (onnxruntime)"


def _expert_formats(gpu: Mapping[str, Any] | None) -> Iterator[dict[str, Any]]:
    """Yield what each GPU does with quantised experts; nothing of one whose memory is not told."""
    from ttc.planning.gpus import formats_on_gpu

    for device in gpu["devices"] if gpu else ():
        capability, mib = device["compute_capability"], device["memory_mib"]
        if mib.isdigit() and capability.replace(".", "", 1).isdigit() and "." in capability:
            formats = formats_on_gpu(capability, int(mib) * 2**20)
            yield {"gpu": device["name"], "formats": [dataclasses.asdict(one) for one in formats]}


def _format_cells(one: Mapping[str, Any]) -> tuple[str, str, str, str]:
    what = {"both": "fit", "one": "a tower fits, two such GPUs hold both", "none": "not even a tower fits"}
    rest = f", {one['left_bytes'] / 1e9:.1f} GB left" if one["holds"] == "both" else ""
    how = "by the GPU's own instructions" if one["native"] else "bit by bit"
    decoded = "as they are" if one["format"] == PLAIN else how
    return one["format"], decoded, f"{one['both_bytes'] / 1e9:.1f} GB", what[one["holds"]] + rest


def _remedies(found: Mapping[str, Any]) -> Iterator[tuple[str, str]]:
    """Yield what to run, and for what: first what ttc lacks, then packages that would add to it."""
    for ability in found["abilities"]:
        for i, step in enumerate(ability["remedy"]):
            yield f"  {step}", ability["what"] if i == 0 else ""
    named = " ".join(step for ability in found["abilities"] for step in ability["remedy"])
    for item in found["packages"].values():
        if item["version"] is None and item["install"] not in named:
            yield f"  {item['install']}", item["use"]
