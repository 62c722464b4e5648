"""Put the outcomes of a run of the fuzzer into docs/trust.md: `python -m tests.fuzz.table RECORD`.

RECORD is what `python -m tests.fuzz.run --record RECORD` wrote. The lines between the two marks are replaced.
"""

import json
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Any

__all__ = ["main", "table"]

DOCUMENT = Path(__file__).parents[2] / "docs" / "trust.md"
BEGIN, END = "<!-- fuzz: begin, by tests/fuzz/table.py -->\n", "<!-- fuzz: end -->\n"
COLUMNS = ("inputs", "read", "refused", "unexpected")


def table(record: Mapping[str, Any]) -> str:
    """Return the lines."""
    readers = record["readers"]
    most = max(counts["inputs"] for counts in readers.values())
    minutes = round(record["seconds"] / 60)
    lines = [
        f"`python -m tests.fuzz.run --inputs {most} --seed {record['seed']}`, {minutes} minutes:\n",
        f"| reader | {' | '.join(COLUMNS)} |",
        f"| --- | {' | '.join('---' for _ in COLUMNS)} |",
    ]
    total = {name: sum(counts[name] for counts in readers.values()) for name in COLUMNS}
    named = {f"`{reader}`": counts for reader, counts in readers.items()} | {"all": total}
    for reader, counts in named.items():
        lines.append(f"| {reader} | {' | '.join(str(counts[name]) for name in COLUMNS)} |")
    return "\n".join([*lines, "", *record.get("notes", ())]).rstrip() + "\n"


def main() -> None:
    """Replace the table."""
    text = DOCUMENT.read_text("utf-8")
    before, rest = text.split(BEGIN)
    after = rest.split(END)[1]
    made = table(json.loads(Path(sys.argv[1]).read_bytes()))
    DOCUMENT.write_text(f"{before}{BEGIN}{made}{END}{after}", "utf-8")


if __name__ == "__main__":
    main()
