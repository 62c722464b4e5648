"""What a build made, and what it cost."""

import dataclasses
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from ttc.exporter.engines.build_phases import BuildPhase

__all__ = ["BuildReport", "GraphReport"]


@dataclass(frozen=True, slots=True)
class GraphReport:
    """What a build made of one graph.

    Attributes:
        role: the graph's role.
        engines: name → size in bytes.
        cached: whether they came from the cache.
        seconds: of all of it but writing.
        layer_kinds: kind → how many layers of it all its networks have together; the most frequent first.
        phases: "parse" and "build" (each engine in a process of its own; absent from the cache) and "write"
            (this process), with seconds and peak memory.
    """

    role: str
    engines: Mapping[str, int]
    cached: bool
    seconds: float
    layer_kinds: Mapping[str, int]
    phases: Mapping[str, BuildPhase]

    @property
    def layers(self) -> int:
        """Return how many layers all its networks have."""
        return sum(self.layer_kinds.values())

    @property
    def peak_bytes(self) -> int:
        """The largest resident memory of the processes that built it; 0 from the cache."""
        return max((phase.peak_bytes for name, phase in self.phases.items() if name != "write"), default=0)

    def to_dict(self) -> dict[str, Any]:
        """Return what `ttc build --json` prints of the graph."""
        content = dataclasses.asdict(self)
        content["stages"] = content.pop("phases")
        return content | {"layers": self.layers, "peak_bytes": self.peak_bytes}


@dataclass(frozen=True, slots=True)
class BuildReport:
    """What a build made.

    Attributes:
        output: folder of the engines.
        backend: the name of the backend.
        backend_version: its version.
        form: "whole" or "cut".
        targets: compute capabilities; empty: what the backend builds for by default.
        graphs: one report for each, in the order of their roles.
        seconds: of all of it.
        notes: what was chosen for the user, one sentence each.
        reproducible: whether a second build gave the same bytes; None where not asked.
    """

    output: Path
    backend: str
    backend_version: str
    form: str
    targets: tuple[str, ...]
    graphs: tuple[GraphReport, ...]
    seconds: float
    notes: tuple[str, ...]
    reproducible: bool | None

    def to_dict(self) -> dict[str, Any]:
        """Return what `ttc build --json` prints."""
        return dataclasses.asdict(self) | {
            "output": str(self.output),
            "graphs": [graph.to_dict() for graph in self.graphs],
        }
