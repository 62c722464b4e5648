"""The tables of README and documents that are made of records: written anew, or compared.

    python -m benchmarks.tables             write them
    python -m benchmarks.tables --check     exit with 1 where one differs

A table stands between `<!-- table: NAME -->` and `<!-- end -->`; NAME is one of `TABLES`, whose record lies
in `benchmarks/results`.
"""

import json
import re
import sys
from collections.abc import Callable, Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

__all__ = ["DOCUMENTS", "TABLES", "main", "with_tables"]

ROOT = Path(__file__).parents[1]
RESULTS = ROOT / "benchmarks" / "results"
DOCUMENTS = (ROOT / "README.md", *sorted((ROOT / "docs").glob("*.md")))
_PLACE = re.compile(r"(<!-- table: (\w+) -->\n)(.*?)(<!-- end -->)", re.DOTALL)
Record = Mapping[str, Any]


def newcomer(record: Record) -> str:
    """Return the steps of `benchmarks.newcomer`."""
    rows = [(step["what"], f"`{step['command']}`", f"{step['seconds']:.1f} s") for step in record["steps"]]
    told = (
        f"On {_machine(record)}; {record['installed_mb']:.0f} MB are installed then, pip included "
        "([record](benchmarks/results/newcomer.json), `python -m benchmarks.newcomer`)."
    )
    return f"{_table(('step', 'command', 'time'), rows)}\n{told}\n"


def miniature_cpu(record: Record) -> str:
    """Return the backends of `benchmarks/run.py` side by side."""
    rows = []
    for name, found in record["candidates"].items():
        backend, _, mode = name.rpartition(" ")
        nfe = found.get("nfe")
        rows.append(
            (
                mode,
                {"transformers": "transformers' NemotronH, same weights"}.get(backend, f"`{backend}`"),
                f"{found['tokens_per_second']:.0f}",
                "" if nfe is None else str(nfe),
                "" if nfe is None else f"{found['tokens_per_nfe']:.2f}",
            )
        )
    packages = record["machine"]["packages"]
    versions = ", ".join(f"{name} {packages[name]}" for name in ("onnxruntime", "torch"))
    told = (
        f"On {_machine(record)}; {record['prompts']} prompts of {record['max_new_tokens']} tokens each, "
        f"median of {record['repeats']} turns; {versions}, transformers {record['transformers']}. "
        "One denoiser evaluation, the extension of the context included, costs "
        f"{record['ratios'][_NFE_COST]:.1f} AR steps there; "
        f"{record['ratios'][_LOOP_SHARE]:.1%} of a denoise step is spent in the loop outside the backend."
    )
    return f"{_table(('mode', 'backend', 'tokens/s', 'NFE', 'tokens/NFE'), rows)}\n{told}\n"


_NFE_COST = "cost of one NFE in AR steps, extension included"
_LOOP_SHARE = "loop outside the backend, share of a denoise step"
TABLES: Mapping[str, Callable[[Record], str]] = {"newcomer": newcomer, "miniature_cpu": miniature_cpu}


def with_tables(text: str) -> str:
    """Return a document with its tables as the records have them; a table without a record stays as it is."""

    def made(match: re.Match[str]) -> str:
        file = RESULTS / f"{match[2]}.json"
        if not file.is_file():
            return match[0]
        return f"{match[1]}{TABLES[match[2]](json.loads(file.read_text(encoding='utf-8')))}{match[4]}"

    return _PLACE.sub(made, text)


def _machine(record: Record) -> str:
    """Return a machine in words; the load tells a busy one."""
    machine, load = record["machine"], record["load_at_start"]
    when = (record.get("date") or record["started"])[:10]
    return f"{machine['cores']} cores of {machine['cpu']}, {when}, load {load:.1f} at the start"


def _table(head: Sequence[str], rows: Iterable[Sequence[str]]) -> str:
    lines = [head, ["---"] * len(head), *rows]
    return "".join(f"| {' | '.join(line)} |\n" for line in lines)


def main() -> int:
    """Write the tables, or compare them; return the exit code."""
    check, code = "--check" in sys.argv[1:], 0
    for path in DOCUMENTS:
        text = path.read_text(encoding="utf-8")
        if (new := with_tables(text)) != text:
            code = int(check)
            print(f"{path.relative_to(ROOT)}: {'differs from its records' if check else 'written'}")
            if not check:
                path.write_text(new, encoding="utf-8")
    return code


if __name__ == "__main__":
    sys.exit(main())
