"""Times of an engine's layers by TensorRT's own profiler, and what its inspector says of them.

Written against TensorRT 11.4 and TensorRT-RTX 1.7 and not run yet: both need a GPU. A thin layer on purpose:
the caller owns the context and enqueues on it; here are only the profiler, the join with the inspector, and
the names of our graphs' layers in the names that the builder makes of them.
"""

import json
import re
from collections import Counter
from dataclasses import dataclass, field
from typing import Any

from ttc.config import ModelConfig
from ttc.errors import BackendError
from ttc.plugins.costs import Cost
from ttc.plugins.ops import DOMAIN
from ttc.profiling.costs import SPECS
from ttc.profiling.report import Part

__all__ = ["LayerTimes", "engine_layers", "engine_parts", "layer_profiler"]

_LAYER = re.compile(r"layers\.(\d+)\.\w+")
_PLACE = re.compile(r"\b(embedding|time|head|step)/")


@dataclass(slots=True)
class LayerTimes:
    """Milliseconds by engine layer, added up over the calls that were reported."""

    milliseconds: Counter[str] = field(default_factory=Counter)

    def add(self, name: str, milliseconds: float) -> None:
        """Take one layer of one call."""
        self.milliseconds[name] += milliseconds  # type: ignore[assignment]


def layer_profiler(trt: Any, times: LayerTimes) -> Any:
    """An `IProfiler` that fills `times`; set it as `context.profiler`.

    Set `context.enqueue_emits_profile = False` and call `context.report_to_profiler()` after each
    synchronised enqueue, so that profiling does not wait inside the enqueue. A captured CUDA graph reports
    nothing: enqueue directly.
    """

    class Profiler(trt.IProfiler):  # type: ignore[misc]
        """Hands every layer on."""

        def __init__(self) -> None:
            trt.IProfiler.__init__(self)

        def report_layer_time(self, layer_name: str, ms: float) -> None:
            """Called by TensorRT for each layer."""
            times.add(layer_name, ms)

    return Profiler()


def engine_layers(trt: Any, engine: Any) -> list[dict[str, Any]]:
    """The layers of a deserialised engine as its inspector tells them; more than names only where it was
    built with detailed verbosity.
    """
    inspector = engine.create_engine_inspector()
    text = inspector.get_engine_information(trt.LayerInformationFormat.JSON)
    try:
        layers = json.loads(text)["Layers"]
    except (ValueError, KeyError, TypeError) as fault:
        raise BackendError(f"the engine inspector gave no list of layers ({fault})") from None
    return [layer if isinstance(layer, dict) else {"Name": str(layer)} for layer in layers]


def engine_parts(times: LayerTimes, calls: int, config: ModelConfig) -> tuple[Part, ...]:
    """Times of a whole engine as parts, by the names of our nodes inside the builder's.

    A builder may fuse nodes of two layers into one of its own; its time goes to the first of them.
    """
    parts = []
    for name, milliseconds in times.milliseconds.items():
        layer = _LAYER.search(name)
        place = _PLACE.search(name)
        number = int(layer[1]) if layer else None
        where = f"layers.{number}" if layer else place[1] if place else "other"
        kind = config.pattern[number] if number is not None else where
        op = next((f"{DOMAIN}::{op}" for op in SPECS if op in name), "engine layer")
        seconds = milliseconds / 1e3 / calls
        parts.append(Part(where, number, kind, op, seconds, seconds, 1, Cost(0, 0)))
    return tuple(parts)
