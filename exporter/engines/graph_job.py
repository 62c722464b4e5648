"""What is to be made of one graph: its engines, and everything that decides their bytes."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

from ttc.exporter.engines.engine_spec import EngineSpec
from ttc.formats.program import Program

__all__ = ["GraphJob"]


@dataclass(frozen=True, slots=True)
class GraphJob:
    """The work on one graph.

    Attributes:
        role: the graph's role; of a foreign file its name without its ending.
        about: what decides the bytes of its engines, but for backend, targets and the sources of the builder:
            part of the cache's key, and what `ttc cache ls` tells.
        specs: returns the engines to build and, in cut form, the program.
        check: called when all is built; raises where the source changed meanwhile.
    """

    role: str
    about: Mapping[str, Any]
    specs: Callable[[], tuple[list[EngineSpec], Program | None]]
    check: Callable[[], None] = lambda: None
