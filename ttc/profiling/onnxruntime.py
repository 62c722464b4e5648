"""Times of the nodes of ONNX Runtime's sessions, by its own profiler.

The `ttc` ops are inlined before the session is made, so that their nodes are named after the op and the
layer they came from; ONNX Runtime would inline them anyway, under names that say nothing. Its optimiser keeps
names, and puts the name of what it fused after that of the first node.
"""

import json
import re
from bisect import bisect_left
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ttc.errors import BackendError
from ttc.exporter.passes.inline_ops import inline_ops
from ttc.model.bundle import Bundle
from ttc.model.config import ModelConfig
from ttc.plugins.costs import Cost
from ttc.plugins.diffusion_step import DIFFUSION_STEP
from ttc.plugins.ops import DOMAIN
from ttc.plugins.table import OPS_BY_NAME
from ttc.profiling.costs import node_cost, ttc_op_cost
from ttc.profiling.phases import Phase
from ttc.profiling.report import Part
from ttc.runtime.interface.backend import Backend
from ttc.runtime.interface.settings import LoadSettings

if TYPE_CHECKING:
    import onnx_ir as ir

__all__ = ["NodeTime", "Run", "host_part", "open_profiled", "parts_of"]

_LAYER = re.compile(r"layers\.(\d+)\.\w+")
_PLACES = ("embedding", "time", "head", "step")


@dataclass(frozen=True, slots=True)
class NodeTime:
    """One node in one run: name, operator, start after the run's start, its duration, and how long until the
    next one began, in µs; tensors.
    """

    name: str
    op: str
    start: float
    micros: float
    until_next: float
    inputs: Sequence[Mapping[str, Sequence[int]]]
    outputs: Sequence[Mapping[str, Sequence[int]]]


@dataclass(frozen=True, slots=True)
class Run:
    """One run of a session: its duration in µs, and its nodes in order."""

    micros: float
    nodes: tuple[NodeTime, ...]


def open_profiled(
    bundle: Bundle, device: str | None, threads: int | None, folder: Path
) -> tuple[Backend, str, Callable[[], dict[str, list[Run]]]]:
    """Return the backend with every session profiled, where it runs, and a function that ends the profiles
    and gives each role's runs in order.

    folder: where ONNX Runtime writes its files.
    """
    from ttc.runtime.backends.onnxruntime.load import load

    def runs() -> dict[str, list[Run]]:
        return {role: read_runs(Path(file)) for role, file in backend.end_profiles().items()}

    def prepare(role: str, model: "ir.Model", options: Any) -> None:
        inline_ops(model)
        options.enable_profiling = True
        options.profile_file_prefix = str(folder / role)

    backend = load(bundle, LoadSettings(device, threads), prepare=prepare)
    return backend, backend.device_name, runs


def read_runs(path: Path) -> list[Run]:
    """Return the runs in a file of ONNX Runtime's profiler.

    Raises:
        BackendError: the file is not whole; the library says nothing when it cannot write.
    """
    try:
        events = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError):
        raise BackendError(
            f"{path}: ONNX Runtime could not write its profile; is the disk full? TMPDIR names another folder"
        ) from None
    timed = (e for e in events if e["cat"] == "Node" and e["name"].endswith("_kernel_time"))
    every = sorted(timed, key=lambda e: (e["ts"], e["dur"]))
    found = []
    for event in events:
        if event["cat"] == "Session" and event["name"] == "model_run":
            start, end = event["ts"], event["ts"] + event["dur"]
            first, last = (bisect_left(every, moment, key=lambda e: e["ts"]) for moment in (start, end))
            kernels = every[first:last]
            begins = [*(e["ts"] for e in kernels[1:]), end]
            nodes = tuple(_node(e, start, n) for e, n in zip(kernels, begins, strict=True))
            found.append(Run(float(event["dur"]), nodes))
    return found


def parts_of(run: Run, config: ModelConfig, batch: int, phase: Phase, itemsize: int) -> tuple[Part, ...]:
    """Return the nodes of one run added up by place and op; a `ttc` op's cost is that of the op, not of the
    nodes that stand in for it here.
    """
    groups: dict[tuple[str, str], list[NodeTime]] = {}
    for node in run.nodes:
        groups.setdefault(_whose(node), []).append(node)
    parts = []
    for (place, op), nodes in groups.items():
        match = _LAYER.fullmatch(place)
        layer = int(match[1]) if match else None
        kind = place if layer is None else config.pattern[layer]
        if op.startswith(f"{DOMAIN}::"):
            calls, cost = 1, ttc_op_cost(op.split("::")[1], config, kind, batch, phase, itemsize)
        else:
            calls = len(nodes)
            cost = sum((node_cost(n.op, n.inputs, n.outputs) for n in nodes), Cost(0, 0))
        kernel = sum(node.micros for node in nodes) / 1e6
        seconds = kernel + sum(node.until_next for node in nodes) / 1e6
        shown = place if layer is None else f"layers.{layer}"
        parts.append(Part(shown, layer, kind, op, seconds, kernel, calls, cost))
    return tuple(parts)


def host_part(seconds: float, config: ModelConfig, batch: int, phase: Phase, itemsize: int) -> Part:
    """Return the diffusion step as one part: no session has it where the host takes it."""
    cost = ttc_op_cost(DIFFUSION_STEP.name, config, phase.role, batch, phase, itemsize)
    op = f"{DOMAIN}::{DIFFUSION_STEP.name}"
    return Part(phase.role, None, phase.role, op, seconds, seconds, 1, cost)


def _whose(node: NodeTime) -> tuple[str, str]:
    """Place and op that a node's name tells."""
    words = node.name.split("/")
    known = words[0] in _PLACES or _LAYER.fullmatch(words[0])
    place = words[0] if known else "other"
    if len(words) > 1 and words[1] in OPS_BY_NAME:
        return place, f"{DOMAIN}::{words[1]}"
    return place, node.op


def _node(event: Mapping[str, Any], start: float, next_begins: float) -> NodeTime:
    arguments = event["args"]
    return NodeTime(
        event["name"].removesuffix("_kernel_time"),
        arguments.get("op_name", "?"),
        float(event["ts"] - start),
        float(event["dur"]),
        max(0.0, float(next_begins - event["ts"] - event["dur"])),
        arguments.get("input_type_shape", ()),
        arguments.get("output_type_shape", ()),
    )
