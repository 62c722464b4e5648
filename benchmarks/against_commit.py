"""This tree against another commit of it, on the miniature, ONNX Runtime, in one run.

    python -m benchmarks.against_commit 90ab0bf              tokens per second of both, turn by turn
    python -m benchmarks.against_commit 90ab0bf --turns 3    a quick look

Each tree is imported by a process of its own, which loads the bundle once, exported by this tree; then the
two take turns over the same prompts, so that what else the machine does falls on both. Wall clock and the
processes' CPU time of every turn are kept; the figure is the median over the turns of a turn's own ratio.
It is also told whether both gave the same tokens.
"""

import argparse
import dataclasses
import json
import os
import shlex
import statistics
import subprocess
import sys
import tarfile
import tempfile
from io import BytesIO
from pathlib import Path
from typing import Any

import ttc
from ttc.bench.identity import load_average, machine, now
from ttc.bench.record_file import record_file, write_record
from ttc.demo.miniature import problems
from ttc.formats.shipped import shipped_checkpoint

ROOT = Path(__file__).parents[1]
MODES = ("ar", "diffusion")
# What a process of either tree does; it knows the public interface alone.
CHILD = """
import json, logging, sys, time
logging.disable(logging.WARNING)
import ttc
engine = ttc.load(sys.argv[1])
for line in sys.stdin:
    job = json.loads(line)
    options = dict(mode=job["mode"], max_new_tokens=job["tokens"], stop_at_eos=False)
    tokens, wall, cpu = [], time.perf_counter(), time.process_time()
    for start in range(0, len(job["prompts"]), job["rows"]):
        prompts = job["prompts"][start : start + job["rows"]]
        tokens += [list(result.token_ids) for result in engine.generate(prompts, **options)]
    wall, cpu = time.perf_counter() - wall, time.process_time() - cpu
    print(json.dumps({"tokens": tokens, "wall": wall, "cpu": cpu}), flush=True)
"""


def main() -> None:
    """Measure, print a line for each mode and number of rows, write the record."""
    parser = argparse.ArgumentParser(description="Compare this tree with another commit.")
    parser.add_argument("commit")
    parser.add_argument("--turns", type=int, default=7)
    parser.add_argument("--prompts", type=int, default=16)
    parser.add_argument("--max-new-tokens", type=int, default=64)
    parser.add_argument("--rows", type=int, nargs="+", default=[1, 16])
    parser.add_argument(
        "-o", "--output", type=record_file, default=str(ROOT / "build" / "against_commit.json")
    )
    given = parser.parse_args()
    report: dict[str, Any] = {
        "command": shlex.join(["python", "-m", "benchmarks.against_commit", *sys.argv[1:]]),
        "date": now(),
        "machine": dataclasses.asdict(machine()),
        "load_at_start": load_average(),
        "rows": [],
    }
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        prompts = [problem.prompt for problem in problems(shipped_checkpoint(), given.prompts)]
        bundle = ttc.export(shipped_checkpoint(), folder / "model.bundle")
        trees = {"then": unpacked(given.commit, folder / "then"), "now": ROOT}
        children = {which: start(tree, bundle) for which, tree in trees.items()}
        for mode in MODES:
            for rows in given.rows:
                job = {"mode": mode, "rows": rows, "tokens": given.max_new_tokens, "prompts": prompts}
                row = compared(children, job, given.turns)
                report["rows"].append(row)
                print(
                    f"{mode:10}{rows:3} rows: then {row['then']['tokens_per_second']:7.0f} tokens/s, "
                    f"now {row['now']['tokens_per_second']:7.0f}, {row['wall_ratio']:.2f} x "
                    f"(CPU time {row['cpu_ratio']:.2f} x, same tokens: {row['same_tokens']})",
                    flush=True,
                )
        for child in children.values():
            child.communicate()  # closes its input, which ends it
    report["load_at_end"] = load_average()
    write_record(given.output, report)
    print(f"written to {given.output}")


def unpacked(commit: str, folder: Path) -> Path:
    """Return a folder with the tree of a commit."""
    archive = subprocess.run(["git", "archive", commit], cwd=ROOT, check=True, capture_output=True).stdout
    with tarfile.open(fileobj=BytesIO(archive)) as tree:
        tree.extractall(folder, filter="data")
    return folder


def start(tree: Path, bundle: Path) -> "subprocess.Popen[str]":
    """Start the process of one tree."""
    return subprocess.Popen(
        [sys.executable, "-c", CHILD, str(bundle)],
        cwd=tree,
        env={**os.environ, "PYTHONPATH": str(tree)},
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
    )


def compared(children: "dict[str, subprocess.Popen[str]]", job: dict[str, Any], turns: int) -> dict[str, Any]:
    """Let the processes take turns at one job; the first turn is not counted."""
    measured: dict[str, list[dict[str, float]]] = {which: [] for which in children}
    tokens = {}
    for turn in range(turns + 1):
        for which, child in children.items():
            found = asked(child, job)
            tokens[which] = found["tokens"]
            if turn:
                measured[which].append({"wall": found["wall"], "cpu": found["cpu"]})
    count = sum(len(each) for each in tokens["now"])
    pairs = list(zip(measured["then"], measured["now"], strict=True))
    row: dict[str, Any] = {
        which: {
            "tokens_per_second": count / statistics.median(turn["wall"] for turn in each),
            "tokens_per_cpu_second": count / statistics.median(turn["cpu"] for turn in each),
            "turns": each,
        }
        for which, each in measured.items()
    }
    return {
        "mode": job["mode"],
        "rows": job["rows"],
        "same_tokens": tokens["then"] == tokens["now"],
        "wall_ratio": statistics.median(then["wall"] / now["wall"] for then, now in pairs),
        "cpu_ratio": statistics.median(then["cpu"] / now["cpu"] for then, now in pairs),
        **row,
    }


def asked(child: "subprocess.Popen[str]", job: dict[str, Any]) -> dict[str, Any]:
    """Return a process's answer to a job."""
    assert child.stdin is not None, "made with pipes"
    assert child.stdout is not None, "made with pipes"
    child.stdin.write(json.dumps(job) + "\n")
    child.stdin.flush()
    line = child.stdout.readline()
    if not line:
        sys.exit(f"a process ended early with code {child.wait()}; its words stand above")
    found: dict[str, Any] = json.loads(line)
    return found


if __name__ == "__main__":
    main()
