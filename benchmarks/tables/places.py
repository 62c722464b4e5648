"""Where the tables and figures stand in documents, and which record each is made of."""

import functools
import json
import re
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from benchmarks.tables.builds import build_real_size_int8
from benchmarks.tables.miniature import (
    against_commit,
    call_costs,
    headline,
    headline_busy,
    miniature_batches,
    miniature_bench,
    miniature_cpu,
    newcomer,
)
from benchmarks.tables.modes import (
    commit_rules,
    lossless_cpu,
    lossless_positions,
    quantised_quality,
    sparse_experts,
)
from benchmarks.tables.service import core_cpu, plan_check, serve_plan_check, serving
from benchmarks.tables.words import Record

__all__ = ["DOCUMENTS", "ROOT", "TABLES", "with_tables"]

ROOT = Path(__file__).parents[2]
RESULTS = ROOT / "benchmarks" / "results"
DOCUMENTS = (ROOT / "README.md", *sorted((ROOT / "docs").glob("*.md")))
_TABLE = re.compile(r"(<!-- table: (\w+) -->\n)(.*?)(<!-- end -->)", re.DOTALL)
_FIGURE = re.compile(r"(<!-- figure: (.+?) (\S+) -->)(.*?)(<!-- end -->)", re.DOTALL)
# A table is named as its record; where two are made of one, the second has a name of its own.
_OTHER_RECORD = {"lossless_positions": "lossless_cpu"}
TABLES: Mapping[str, Callable[[Record], str]] = {
    made.__name__: made
    for made in (
        against_commit,
        build_real_size_int8,
        call_costs,
        commit_rules,
        core_cpu,
        headline,
        headline_busy,
        lossless_cpu,
        lossless_positions,
        miniature_batches,
        miniature_bench,
        miniature_cpu,
        newcomer,
        plan_check,
        quantised_quality,
        serve_plan_check,
        serving,
        sparse_experts,
    )
}


def with_tables(text: str) -> str:
    """Return a document with its tables and figures as the records have them.

    Raises `KeyError` for a table or a figure that no record has, `FileNotFoundError` without the record.
    """
    return _FIGURE.sub(_figure, _TABLE.sub(_table, text))


def _table(match: re.Match[str]) -> str:
    name = match[2]
    return f"{match[1]}{TABLES[name](_record(_OTHER_RECORD.get(name, name)))}{match[4]}"


def _figure(match: re.Match[str]) -> str:
    name, *keys = match[2].split(".")
    value: Any = _record(name)
    for key in keys:
        value = value[int(key)] if isinstance(value, list) else value[key]
    return f"{match[1]}{value:{match[3]}}{match[5]}".replace("%<", " %<")


@functools.cache
def _record(name: str) -> Any:
    return json.loads((RESULTS / f"{name}.json").read_text(encoding="utf-8"))
