"""The headline of the README: its record, and its table in the README.

    python -m benchmarks.headline             measures all 750 held-out problems, writes record and table
    python -m benchmarks.headline --render    only the table, from the record that lies there

What is measured is `ttc bench --headline` with every held-out problem: three minutes on two idle cores.
"""

import argparse
import json
import subprocess
import sys
from pathlib import Path

from ttc.base.files import write_whole
from ttc.bench.headline import HEAD, notes, rows
from ttc.bench.schema import Report, read_report

ROOT = Path(__file__).parents[1]
RECORD = ROOT / "benchmarks" / "results" / "headline.json"
PROBLEMS = ROOT / "benchmarks" / "problems" / "miniature.jsonl"
README = ROOT / "README.md"
BEGIN, END = "<!-- headline: python -m benchmarks.headline -->", "<!-- /headline -->"


def markdown(report: Report) -> str:
    """The record as it stands in the README, between its marks."""
    head = ("mode", *HEAD[1:])
    lines = [f"| {' | '.join(head)} |", "| --- " * len(head) + "|"]
    lines += [f"| {' | '.join(row)} |" for row in rows(report)]
    machine, load = report.machine, report.conditions
    where = (
        f"Measured on {machine.cores} cores of {machine.cpu}, load {load.load_at_start:g} at the start and "
        f"{load.load_at_end:g} at the end ([record](benchmarks/results/headline.json))."
    )
    return "\n".join([*lines, "", " ".join((*notes(report), where))])


def with_table(readme: str, report: Report) -> str:
    """The README with the record's table between the marks."""
    before, begin, rest = readme.partition(BEGIN)
    _, end, after = rest.partition(END)
    if not (begin and end):
        raise SystemExit(f"{README} has no place for the table: {BEGIN} … {END}")
    return f"{before}{BEGIN}\n{markdown(report)}\n{END}{after}"


def main() -> None:
    """Parse the command line, measure, write."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--render", action="store_true", help="the README's table from the record, no run")
    if not parser.parse_args().render:
        command = [sys.executable, "-m", "ttc", "bench", "--headline", "--tasks", str(PROBLEMS), "--json"]
        done = subprocess.run(command, stdout=subprocess.PIPE, check=True, text=True)
        write_whole(RECORD, json.dumps(json.loads(done.stdout), indent=1) + "\n")
    readme = README.read_text(encoding="utf-8")
    README.write_text(with_table(readme, read_report(RECORD)), encoding="utf-8")


if __name__ == "__main__":
    main()
