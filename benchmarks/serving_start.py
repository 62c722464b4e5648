"""How long `ttc serve` takes to be ready. On this CPU; the miniature.

    python -m benchmarks.serving_start                   ten starts each way, to build/serving_start.json

From the start of the process to the line that says where it listens, which comes when the model is loaded and
warm: with a bundle, and with `--demo`, the miniature of the package. In turns, the first of each apart:
it may read from disk what the others find in memory. Beside them what the parts of such a start take in a
process of their own: importing, loading, the first request.
"""

import argparse
import dataclasses
import json
import os
import shlex
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from ttc.bench.identity import load_average, machine, now
from ttc.bench.record_file import record_file, write_record
from ttc.formats.shipped import shipped_bundle

PARTS = """\
import json, sys, time
began = time.perf_counter()
import ttc.commands.serve, ttc.serving.server, ttc.runtime.backends.onnxruntime.run
imported = time.perf_counter()
engine = __import__("ttc").load(sys.argv[1], prefix_cache_bytes=None)
loaded = time.perf_counter()
engine.generate([0], max_new_tokens=2)
answered = time.perf_counter()
seconds = {"imports": imported - began, "load": loaded - imported, "first_request": answered - loaded}
print(json.dumps(seconds))
"""


def main() -> None:
    """Measure, print, write."""
    parser = argparse.ArgumentParser(description="Measure how long the service takes to start.")
    parser.add_argument("--starts", type=int, default=10)
    parser.add_argument("--bundle", type=Path, help="The miniature's bundle.  [default: the package's]")
    parser.add_argument("-o", "--output", type=record_file, default="build/serving_start.json")
    args = parser.parse_args()
    report: dict[str, Any] = {
        "command": shlex.join(["python", "-m", "benchmarks.serving_start", *sys.argv[1:]]),
        "date": now(),
        "machine": dataclasses.asdict(machine()),
        "load_at_start": load_average(),
    }
    with tempfile.TemporaryDirectory() as folder:
        os.environ["XDG_CACHE_HOME"] = folder
        bundle = shipped_bundle() if args.bundle is None else args.bundle
        ways = {"bundle": [str(bundle)], "demo": ["--demo"]}
        taken: dict[str, list[float]] = {name: [] for name in ways}
        for _ in range(args.starts + 1):
            for name, arguments in ways.items():
                taken[name].append(start(arguments))
        parts = [measured_parts(bundle) for _ in range(args.starts)]
    report |= {
        "seconds": {name: {"first": each[0], **spread(each[1:])} for name, each in taken.items()},
        "parts_seconds": {name: spread([each[name] for each in parts]) for name in parts[0]},
    }
    print(json.dumps(report, indent=1))
    write_record(args.output, report)


def start(arguments: Sequence[str]) -> float:
    """Return the seconds until a service says that it listens."""
    command = [sys.executable, "-m", "ttc", "serve", *arguments, "--port", "0"]
    began = time.perf_counter()
    with subprocess.Popen(command, stderr=subprocess.PIPE, text=True) as process:
        assert process.stderr is not None
        try:
            said = ""
            while "listening on http://" not in said:
                line = process.stderr.readline()
                assert line, f"the service did not start: {said}"
                said += line
            return time.perf_counter() - began
        finally:
            process.terminate()
            process.communicate()


def measured_parts(bundle: Path) -> Mapping[str, float]:
    """Return the seconds of the parts of a start."""
    done = subprocess.run([sys.executable, "-c", PARTS, str(bundle)], capture_output=True, check=True)
    found: dict[str, float] = json.loads(done.stdout)
    return found


def spread(values: Sequence[float]) -> dict[str, float]:
    """Return the median, the least and the most."""
    return {"median": statistics.median(values), "least": min(values), "most": max(values)}


if __name__ == "__main__":
    main()
