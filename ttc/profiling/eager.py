"""Times of the torch backend's layers and `ttc` ops: a clock is read after every layer and around every op.

On CUDA the clock waits for the device first, so that a time is that of the work and not of its launch; it
then also holds what a pipeline would hide. That has not run on a GPU yet.
"""

import time
from collections.abc import Callable
from dataclasses import dataclass, field
from itertools import pairwise
from typing import Any

from ttc.errors import BackendError
from ttc.model.bundle import Bundle
from ttc.model.config import ModelConfig, kind_label
from ttc.plugins.costs import Cost
from ttc.plugins.ops import DOMAIN, OpSpec
from ttc.profiling.costs import ttc_op_cost
from ttc.profiling.phases import Phase
from ttc.profiling.report import Part
from ttc.profiling.trace import Span
from ttc.runtime.interface.backend import Backend
from ttc.verify.backends import open_candidate

__all__ = ["MarkedBackend", "Marks", "open_marked", "parts_of"]


@dataclass(slots=True)
class Marks:
    """One call: when each layer was done, and begin and end of every `ttc` op, in seconds."""

    layers: list[tuple[int, float]] = field(default_factory=list)
    ops: list[tuple[str, float, float]] = field(default_factory=list)


@dataclass(slots=True)
class MarkedBackend:
    """A torch backend whose calls leave marks."""

    backend: Backend
    marks: Marks = field(default_factory=Marks)

    def record(self, call: Callable[[], object]) -> Marks:
        """Make one call; its marks."""
        self.marks = Marks()
        call()
        return self.marks


def open_marked(bundle: Bundle, device: str | None) -> MarkedBackend:
    """Return the torch backend of a bundle, whose calls leave marks."""
    opened = open_candidate("torch", bundle, device, layers=False)
    backend: Any = opened.backend
    if not hasattr(backend, "record"):
        backend.close()
        raise BackendError(
            f"torch on {opened.device} runs as CUDA graphs, whose layers cannot be told apart; "
            "profile it with device 'cpu', or with Nsight Systems"
        )
    marked = MarkedBackend(backend)
    run_op, wait = backend.run_op, _waiter(opened.device)

    def timed_op(op: OpSpec, *inputs: Any, **attributes: Any) -> tuple[Any, ...]:
        start = time.perf_counter()
        outputs: tuple[Any, ...] = run_op(op, *inputs, **attributes)
        wait()
        marked.marks.ops.append((op.name, start, time.perf_counter()))
        return outputs

    def layer_done(layer: int, _: Any) -> None:
        wait()
        marked.marks.layers.append((layer, time.perf_counter()))

    backend.run_op, backend.record = timed_op, layer_done
    return marked


def parts_of(
    marks: Marks,
    clock: tuple[float, float],
    config: ModelConfig,
    phase: Phase,
    batch: int,
    itemsize: int,
) -> tuple[tuple[Part, ...], tuple[Span, ...]]:
    """Return the call's parts: every op, what else its layer computed, and what came before and after the
    layers.
    """
    begin, end = clock
    cuts: list[tuple[str, int | None, float]] = [("before the layers", None, begin)]
    cuts += [(f"layers.{layer}", layer, done) for layer, done in marks.layers]
    spans = [Span(phase.name, phase.name, "backend call", begin * 1e6, (end - begin) * 1e6)]
    parts: list[Part] = []
    # A call without layers is one op and what copies its tensors.
    bounds: list[tuple[str, int | None, float, float]] = []
    for (_, _, start), (place, layer, done) in pairwise(cuts):
        bounds.append((place, layer, start, done))
    bounds.append(("head" if marks.layers else phase.role, None, cuts[-1][2], end))
    for place, layer, start, done in bounds:
        kind = place if layer is None else config.pattern[layer]
        inside = 0.0
        for name, op_start, op_end in marks.ops:
            if start <= op_start < done:
                took = op_end - op_start
                inside += took
                cost = ttc_op_cost(name, config, kind, batch, phase, itemsize)
                parts.append(Part(place, layer, kind, f"{DOMAIN}::{name}", took, took, 1, cost))
                spans.append(Span(phase.name, f"{place}/{name}", name, op_start * 1e6, took * 1e6))
        rest = done - start - inside
        others = f"other torch operators, {kind_label(kind)}"
        parts.append(Part(place, layer, kind, others, rest, rest, 1, Cost(0, 0)))
        spans.append(Span(phase.name, place, "layer", start * 1e6, (done - start) * 1e6))
    return tuple(parts), tuple(spans)


def _waiter(device: str) -> Callable[[], None]:
    if not device.startswith("cuda"):
        return lambda: None
    import torch

    return torch.cuda.synchronize
