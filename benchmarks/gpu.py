"""The GPU path at the real size, in stages that a few minutes on a GPU are enough for.

    make gpu                                       all stages, into benchmarks/results/
    python -m benchmarks.gpu --stage machine experts --out DIR --budget 300
    python -m benchmarks.gpu --dry                 every stage at tiny size on the CPU: the form, no figures
    python -m benchmarks.gpu --two                 one GPU against two

The stages are in `benchmarks.gpu_stages`, most valuable first. Each runs in a process of its own and appends
a line of JSON for every measurement to gpu.jsonl in the folder at once, so that neither a fault nor a time
limit costs more than what was still to come; a stage that fails keeps none of the others from running. At the
end there is a table.

Weights are random bfloat16 made on the GPU, in the real shapes. Random weights have no realistic routing, so
the routing op's outputs are replaced by ones that hit exactly d experts a layer (its kernel still runs); and
none have realistic confidences, so a block takes as many steps as it is allowed, drawn from the published
distribution. Floors: bytes that have to move over the bandwidth of a large read on the same GPU.

Has not run on a GPU yet.
"""

import argparse
import json
import os
import subprocess
import sys
import tempfile
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from benchmarks.gpu_stages import ROOT, STAGES, read_lines
from benchmarks.gpu_table import table

LINES = "gpu.jsonl"


def main() -> None:
    """Run the stages, print a table."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else None)
    parser.add_argument("--stage", nargs="+", choices=list(STAGES), default=list(STAGES), metavar="NAME")
    parser.add_argument("--list", action="store_true", help="say what the stages are, and run none")
    parser.add_argument("--budget", type=float, metavar="SECONDS", help="start no stage after that")
    parser.add_argument("--out", type=Path, help="folder of the lines: $OUT, or benchmarks/results/")
    parser.add_argument("--dry", action="store_true", help="tiny, on the CPU, into a folder that is deleted")
    parser.add_argument("--two", action="store_true", help="one GPU against two instead")
    given = parser.parse_args()
    if given.list:
        for name, stage in STAGES.items():
            print(f"{name:8} up to {stage.seconds:3} s   {stage.about}")
        return
    with tempfile.TemporaryDirectory() as nowhere:
        standard = os.environ.get("OUT") or ROOT / "benchmarks" / "results"
        folder = given.out or Path(nowhere if given.dry else standard)
        folder.mkdir(parents=True, exist_ok=True)
        if given.two:
            two(folder, dry=given.dry)
            return
        file = folder / LINES
        run_stages(given.stage, file, given.budget, dry=given.dry)
        lines = read_lines(file)
        print(table(lines))
        if not given.dry:
            print(f"lines in {file}", file=sys.stderr)
    sys.exit(not all(_came_to_its_end(lines, name) for name in given.stage))


def run_stages(names: Sequence[str], file: Path, budget: float | None, *, dry: bool) -> None:
    """Run stages one after the other, each stopped at its time limit or at the end of the budget.

    Those of a dry run share a process, which then has to import everything only once.
    """
    end = None if budget is None else time.monotonic() + budget
    for group in [names] if dry else [[name] for name in names]:
        limit = float(sum(STAGES[name].seconds for name in group))
        if end is not None:
            limit = min(limit, end - time.monotonic())
        if limit <= 0:
            append(file, {"stage": group[0], "ended": "not started: the budget is spent"})
            continue
        for name in group:
            print(f"{name}: {STAGES[name].about}", file=sys.stderr, flush=True)
        command = [
            sys.executable,
            "-m",
            "benchmarks.gpu_stages",
            str(file),
            *group,
            *(["--dry"] if dry else []),
        ]
        try:
            done = subprocess.run(command, cwd=ROOT, timeout=limit, check=False)
        except subprocess.TimeoutExpired:
            append(file, {"stage": group[0], "ended": f"stopped after {limit:.0f} s"})
            continue
        if done.returncode < 0:  # else it has said so itself
            append(file, {"stage": group[0], "ended": f"killed by signal {-done.returncode}"})


def append(file: Path, line: Mapping[str, Any]) -> None:
    """Append a line that a stage could not write itself."""
    with file.open("a", encoding="utf-8") as opened:
        opened.write(json.dumps(line) + "\n")


def two(folder: Path, *, dry: bool) -> None:
    """Measure a round on one GPU and on two (`benchmarks.gpu_two`), and write a line for each."""
    from benchmarks import gpu_two

    for line in gpu_two.rounds(dry=dry):
        append(folder / LINES, {"stage": "two", **line})
        print(json.dumps(line))


def _came_to_its_end(lines: Sequence[Mapping[str, Any]], name: str) -> bool:
    own = [line for line in lines if line["stage"] == name and "ended" in line]
    return bool(own) and own[-1]["ended"] == "done"


if __name__ == "__main__":
    main()
