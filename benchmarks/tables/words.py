"""Words and shapes that the tables share."""

from collections.abc import Iterable, Mapping, Sequence
from typing import Any

__all__ = ["Record", "machine", "markdown", "or_nothing", "percent"]

Record = Mapping[str, Any]


def machine(record: Record) -> str:
    """Return a machine in words; the load tells a busy one."""
    found, load = record["machine"], record.get("load_at_start", record.get("load"))
    when = (record.get("date") or record["started"])[:10]
    return f"{found['cores']} cores of {found['cpu']}, {when}, load {load:.1f} at the start"


def markdown(head: Sequence[str], rows: Iterable[Sequence[str]]) -> str:
    """Return a table in Markdown, every line ended."""
    lines = [head, ["---"] * len(head), *rows]
    return "".join(f"| {' | '.join(line)} |\n" for line in lines)


def or_nothing(value: float | None) -> str:
    """Return two decimals, or an empty cell."""
    return "" if value is None else f"{value:.2f}"


def percent(share: float) -> str:
    """Return a share in percent, with one decimal."""
    return f"{100 * share:.1f} %"
