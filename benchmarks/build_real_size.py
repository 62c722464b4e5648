"""How long, how much memory and how many bytes building both towers takes, in both forms, by number of
layers.

    python benchmarks/build_real_size.py BUNDLE … [--layers 9 18 36 52] [--forms whole cut] [--json FILE]

A BUNDLE has the real size and its weights by reference; a checkpoint of holes is enough, since building reads
no weight (`make_checkpoint` of benchmarks/export_real_size.py, then `ttc export`). Several are built in turn,
so that what else the machine does hits all alike.
Fewer layers are the first ones of the same graph: the head reads what the last of them gives.
"""

import argparse
import dataclasses
import os
import sys
import tempfile
import time
from importlib.metadata import version
from pathlib import Path
from typing import Any

import onnx_ir as ir
from onnx_ir.passes.common import RemoveUnusedNodesPass

from ttc.base.distribution import DISTRIBUTION
from ttc.base.names import ENGINE_FORMS
from ttc.bench.identity import load_average, machine, now
from ttc.bench.record_file import record_file, write_record
from ttc.exporter.engines.build import build
from ttc.exporter.engines.cache import CACHE_VARIABLE

ROLES = ("context", "denoiser")


def shorten(source: Path, target: Path, layers: int) -> None:
    """Write the graph with its first layers only."""
    model = ir.load(source)
    graph = model.graph
    ends = {
        str(value.name): value
        for node in graph
        for value in node.outputs
        if str(value.name).startswith("layers.")
        and str(value.name).count("/") == 1
        and str(value.name).endswith("/x")
    }
    by_number = {int(name.split(".")[1]): value for name, value in ends.items()}
    last = by_number[max(by_number)]
    if layers < len(by_number):
        ir.convenience.replace_all_uses_with(last, by_number[layers - 1])
        kept = [v for v in graph.outputs if not _number(str(v.name)) >= layers]
        del graph.outputs[:]
        graph.outputs.extend(kept)
        RemoveUnusedNodesPass()(model)
        unused = [value for value in graph.inputs if not value.uses()]
        for value in unused:
            graph.inputs.remove(value)
    ir.save(model, target)


def _number(name: str) -> int:
    """Return the layer that a state belongs to; −1 for what is of no layer."""
    word = name.rpartition(".")[2]
    return int(word) if word.isdecimal() else -1


def measure(bundle: Path, layers: int, form: str, folder: Path) -> list[dict[str, Any]]:
    """Return one row per tower, which is built and then asked for again, which the cache answers."""
    rows = []
    os.environ[CACHE_VARIABLE] = str(folder / "cache")
    for role in ROLES:
        path = folder / f"{role}.onnx"
        shorten(bundle / f"{role}.onnx", path, layers)
        start = time.perf_counter()
        report = build(path, folder / "engines", form=form)
        seconds = time.perf_counter() - start
        (graph,) = report.graphs
        start = time.perf_counter()
        again = build(path, folder / "engines", form=form)
        assert all(graph.cached for graph in again.graphs)
        rows.append(
            {
                "bundle": bundle.name,
                "layers": layers,
                "form": form,
                "tower": role,
                "seconds": round(seconds, 2),
                "cached_seconds": round(time.perf_counter() - start, 2),
                "peak_mb": round(graph.peak_bytes / 1e6),
                "engines": len(graph.engines),
                "largest_mb": round(max(graph.engines.values()) / 1e6, 2),
                "total_mb": round(sum(graph.engines.values()) / 1e6, 2),
                "network_layers": graph.layers,
                "backend": f"{report.backend} {report.backend_version}",
            }
        )
    return rows


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("bundles", type=Path, nargs="+", metavar="BUNDLE")
    parser.add_argument("--layers", type=int, nargs="+", default=[9, 18, 36, 52])
    parser.add_argument("--forms", nargs="+", choices=ENGINE_FORMS, default=list(ENGINE_FORMS))
    parser.add_argument("--json", type=record_file, help="also write the rows here")
    options = parser.parse_args()
    rows = []
    print(f"{os.cpu_count()} cores")
    print(
        "bundle      form   layers  tower     seconds  cached  peak MB  engines  largest MB  total MB  ",
        end="",
    )
    print("network layers")
    for form in options.forms:
        for layers in options.layers:
            for bundle in options.bundles:
                with tempfile.TemporaryDirectory() as folder:
                    measured = measure(bundle, layers, form, Path(folder))
                rows.extend(measured)
                for row in measured:
                    print(
                        f"{row['bundle']:<10}  {row['form']:<6} {row['layers']:>6}  "
                        f"{row['tower']:<8} {row['seconds']:>8}  "
                        f"{row['cached_seconds']:>6}  "
                        f"{row['peak_mb']:>7}  {row['engines']:>7}  {row['largest_mb']:>10}  "
                        f"{row['total_mb']:>8}  "
                        f"{row['network_layers']:>14}",
                        flush=True,
                    )
    if options.json is not None:
        write_record(options.json, _record(rows))


def _record(rows: list[dict[str, Any]]) -> dict[str, Any]:
    """Return the rows, and what they were measured on and with."""
    return {
        "command": "python benchmarks/build_real_size.py " + " ".join(sys.argv[1:]),
        "finished": now(),
        "load_at_end": load_average(),
        "machine": dataclasses.asdict(machine()),
        "versions": {name: version(name) for name in (DISTRIBUTION, "tensorrt_rtx", "onnx", "onnx-ir")},
        "rows": rows,
    }


if __name__ == "__main__":
    main()
