"""How much memory building one matrix of 2.1 GB takes: ttc's processes and plain TensorRT-RTX, side by side.

    python -m benchmarks.large_weights [--megabytes N] [--json FILE]

The weights lie outside the file and are holes. Told are the peaks of resident memory of the process that was
asked, of the process that builds when the library has parsed the file and its builder is not called yet, and
of that process in the end; beside them those of plain TensorRT-RTX (`tests/support/plain_rtx.py`), at the
same points. Resident memory counts the pages of the mapped weights, which the system can take back.
"""

import argparse
import dataclasses
import json
import os
import subprocess
import sys
import tempfile
import time
from importlib.metadata import version
from pathlib import Path
from typing import Any

from tests.support.foreign_weights import large_matmul
from ttc.bench.identity import load_average, machine, now
from ttc.bench.record_file import record_file, write_record
from ttc.exporter.engines.cache import CACHE_VARIABLE

TARGET = "8.9"
_PEAK = """
import json, sys
from pathlib import Path
def peak():
    lines = Path("/proc/self/status").read_text().splitlines()
    return next(int(line.split()[1]) * 1024 for line in lines if line.startswith("VmHWM"))
path, folder = Path(sys.argv[1]), Path(sys.argv[2])
"""
_OURS = """
from ttc.exporter.engines.build import build
(graph,) = build(path, folder / f"out-{peak()}", targets=(sys.argv[3],)).graphs
parsed, built = (0 if graph.cached else graph.phases[name].peak_bytes for name in ("parse", "build"))
print(json.dumps({"cached": graph.cached, "own": peak(), "parsed": parsed, "built": built}))
"""
_PLAIN = """
from tests.support import plain_rtx
import tensorrt_rtx as trt
parsed = []
class Parser(trt.OnnxParser):
    def parse_from_file(self, file):
        done = super().parse_from_file(file)
        parsed.append(peak())
        return done
trt.OnnxParser = Parser
told = plain_rtx.plain_build(path, {}, (sys.argv[3],))
assert not told.refused, told.refused
print(json.dumps({"parsed": parsed[0], "built": peak()}))
"""


def run(code: str, path: Path, folder: Path) -> dict[str, Any]:
    """Run a program in a process of its own; return what it printed, and the seconds."""
    start = time.perf_counter()
    environment = os.environ | {CACHE_VARIABLE: str(folder / "cache")}
    done = subprocess.run(
        [sys.executable, "-c", _PEAK + code, str(path), str(folder), TARGET],
        stdout=subprocess.PIPE,
        env=environment,
        check=True,
        text=True,
    )
    found: dict[str, Any] = json.loads(done.stdout.splitlines()[-1])
    return found | {"seconds": round(time.perf_counter() - start, 1)}


def main() -> None:
    """Measure, print and write the record."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--megabytes", type=int, default=2147, help="of the weights")
    parser.add_argument("--json", type=record_file, help="file to write the record to")
    arguments = parser.parse_args()
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        path = large_matmul(folder, arguments.megabytes * 10**6)
        rows = {"plain": run(_PLAIN, path, folder), "ttc": run(_OURS, path, folder)}
        rows["ttc, from its cache"] = run(_OURS, path, folder)
    print(f"{'':<20} {'seconds':>8} {'own MB':>8} {'parsed MB':>10} {'built MB':>9}")
    for who, row in rows.items():
        megabytes = (f"{row.get(key, 0) / 1e6:.0f}" for key in ("own", "parsed", "built"))
        print(
            f"{who:<20} {row['seconds']:>8} {next(megabytes):>8} {next(megabytes):>10} {next(megabytes):>9}"
        )
    if arguments.json is not None:
        record = {
            "command": "python -m benchmarks.large_weights " + " ".join(sys.argv[1:]),
            "date": now(),
            "machine": dataclasses.asdict(machine()),
            "load": load_average(),
            "versions": {name: version(name) for name in ("onnx", "tensorrt_rtx")},
            "weight_bytes": arguments.megabytes * 10**6,
            "peaks": rows,
        }
        write_record(arguments.json, record)


if __name__ == "__main__":
    main()
