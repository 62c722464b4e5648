"""The table of building engines at the released size."""

from collections.abc import Iterable

from benchmarks.tables.words import Record, markdown

__all__ = ["build_real_size_int8"]


def build_real_size_int8(record: Record) -> str:
    """Return the seconds of plain and int8 networks, run by run."""
    cells: dict[tuple[str, str], dict[str, list[float]]] = {}
    for run in record["runs"]:
        for row in run["rows"]:
            formats = cells.setdefault((row["form"], row["tower"]), {"plain": [], "int8": []})
            formats[row["bundle"]].append(row["seconds"])
    rows = [
        (
            form,
            tower,
            *(", ".join(f"{seconds:.1f}" for seconds in formats[name]) for name in ("plain", "int8")),
            ", ".join(f"{b / a:.2f}" for a, b in zip(formats["plain"], formats["int8"], strict=True)),
        )
        for (form, tower), formats in cells.items()
    ]
    head = ("form", "tower", "plain, s", "int8, s", "int8 over plain")
    return f"{markdown(head, rows)}\n{_conditions(record['runs'])}\n"


def _conditions(runs: Iterable[Record]) -> str:
    runs = list(runs)
    host = runs[0]["machine"]
    loads = ", ".join(f"{run['load_at_end']:.1f}" for run in runs)
    return (
        f"TensorRT-RTX {runs[0]['versions']['tensorrt_rtx']} on {host['cores']} cores of {host['cpu']}, "
        f"{runs[0]['finished'][:10]}; load at the end {loads}, the build itself included."
    )
