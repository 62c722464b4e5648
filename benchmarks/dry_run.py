"""How long `ttc build --dry-run` takes on the files of other people that the tests build.

    python -m benchmarks.dry_run [--turns N] [--json FILE]

Every file of the corpus (`tests/support/foreign_models.py` and what adds to it) is asked about by the command
as users run it, in a process of its own. Wall seconds say what a user waits for on this machine with what
else it does; processor seconds, of the command and the library's process together, depend less on that.
"""

import argparse
import dataclasses
import json
import os
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Sequence
from importlib.metadata import version
from pathlib import Path
from typing import Any

from tests.support.exported_models import EXPORTED
from tests.support.foreign_models import Case
from tests.support.foreign_weights import CASES
from ttc.bench.identity import load_average, machine, now
from ttc.bench.record_file import record_file, write_record

GOAL_SECONDS = 2.0


def ask(case: Case, path: Path, output: Path) -> dict[str, Any]:
    """Run the command on one file; return what it took and what it said."""
    command = [sys.executable, "-m", "ttc", "build", str(path), "--dry-run", "--json", "-o", str(output)]
    command += ["--compute-capability", ",".join(case.targets)]
    if case.shapes:
        command += ["--shapes", case.shapes]
    before, start = _processor_seconds(), time.perf_counter()
    done = subprocess.run(command, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, check=False)
    wall = time.perf_counter() - start
    plan = json.loads(done.stdout) if done.stdout else {}
    return {
        "seconds": round(wall, 3),
        "processor_seconds": round(_processor_seconds() - before, 3),
        "exit": done.returncode,
        "tried": plan.get("tried"),
    }


def measure(turns: int) -> list[dict[str, Any]]:
    """Return a row for each file with the least times of its turns; a turn goes through all files."""
    rows: dict[str, dict[str, Any]] = {}
    with tempfile.TemporaryDirectory() as name:
        paths = {}
        for word, case in (CASES | EXPORTED).items():
            (folder := Path(name) / word).mkdir()
            paths[word] = case.make(folder)
        for _ in range(turns):
            for word, case in (CASES | EXPORTED).items():
                row = ask(case, paths[word], Path(name) / "engines")
                best = rows.setdefault(word, {"file": word, **row})
                for key in ("seconds", "processor_seconds"):
                    best[key] = min(best[key], row[key])
    return list(rows.values())


def spread(values: Sequence[float]) -> dict[str, float]:
    """Return least, median, nine tenths and most."""
    ordered = sorted(values)
    tenth = statistics.quantiles(ordered, n=10, method="inclusive")[8]
    return {
        "least": ordered[0],
        "median": round(statistics.median(ordered), 3),
        "p90": round(tenth, 3),
        "most": ordered[-1],
    }


def main() -> None:
    """Measure, print and write the record."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--turns", type=int, default=2, help="the least time of so many counts")
    parser.add_argument("--json", type=record_file, help="file to write the record to")
    arguments = parser.parse_args()
    load_before = load_average()
    rows = measure(arguments.turns)
    rows.sort(key=lambda row: -row["seconds"])
    spreads = {key: spread([row[key] for row in rows]) for key in ("seconds", "processor_seconds")}
    over = [row["file"] for row in rows if row["seconds"] >= GOAL_SECONDS]
    for row in rows[:10]:
        print(
            f"{row['file']:<32} {row['seconds']:>6.2f} s  {row['processor_seconds']:>6.2f} s of a processor"
        )
    for key, values in spreads.items():
        print(f"{key}: " + ", ".join(f"{name} {value:.2f}" for name, value in values.items()))
    print(f"{len(rows)} files, {len(over)} of them {GOAL_SECONDS:g} s or more: {', '.join(over) or 'none'}")
    if arguments.json is not None:
        record = {
            "command": "python -m benchmarks.dry_run " + " ".join(sys.argv[1:]),
            "date": now(),
            "machine": dataclasses.asdict(machine()),
            "load_before": load_before,
            "load_after": load_average(),
            "versions": {name: version(name) for name in ("onnx", "tensorrt_rtx")},
            "turns": arguments.turns,
            "spreads": spreads,
            "goal_seconds": GOAL_SECONDS,
            "files_over_the_goal": over,
            "files": rows,
        }
        write_record(arguments.json, record)


def _processor_seconds() -> float:
    times = os.times()
    return times.children_user + times.children_system


if __name__ == "__main__":
    main()
