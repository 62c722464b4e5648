"""A trace in the format that Perfetto and chrome://tracing open: the Trace Event Format's JSON object with
complete events ("ph": "X"), times in µs.
"""

import json
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from ttc.base.files import write_whole

__all__ = ["Span", "trace_events", "write_trace"]


@dataclass(frozen=True, slots=True)
class Span:
    """One bar: the phase it belongs to, its name and category, begin and length in µs."""

    phase: str
    name: str
    category: str
    begin: float
    micros: float


def trace_events(spans: Sequence[Span]) -> dict[str, Any]:
    """Return the trace: one process per phase, so that each starts at the left, its first span at time 0."""
    phases = list(dict.fromkeys(span.phase for span in spans))
    zero = {phase: min(s.begin for s in spans if s.phase == phase) for phase in phases}
    events: list[dict[str, Any]] = [
        {"name": "process_name", "ph": "M", "pid": number, "tid": 0, "args": {"name": phase}}
        for number, phase in enumerate(phases)
    ]
    events += [
        {
            "name": span.name,
            "cat": span.category,
            "ph": "X",
            "ts": round(span.begin - zero[span.phase], 3),
            "dur": round(span.micros, 3),
            "pid": phases.index(span.phase),
            "tid": 0,
            "args": {"op": span.category},
        }
        for span in spans
    ]
    return {"traceEvents": events, "displayTimeUnit": "ms"}


def write_trace(spans: Sequence[Span], path: Path) -> None:
    """Write the trace to a file, whole or not at all. Raises `InputError` where it cannot."""
    write_whole(path, json.dumps(trace_events(spans), allow_nan=False))
