"""From a graph to what the builder is asked for: one network, with its tensors and their ranges.

Whole form gives one job a graph; cut form one for every distinct segment, and the program that strings them.
"""

from collections.abc import Callable, Mapping
from dataclasses import dataclass

import onnx_ir as ir

from ttc.dims import letters, sizes_of
from ttc.engines import TensorRecord
from ttc.errors import BackendError, InputError
from ttc.exporter.compile import Task
from ttc.exporter.dims import shape_of
from ttc.exporter.passes import run_passes
from ttc.exporter.passes.cut import cut
from ttc.exporter.passes.free_weights import free_weights
from ttc.exporter.passes.inline_composites import inline_composites
from ttc.exporter.passes.plain_reshapes import plain_reshapes
from ttc.exporter.sources import GraphSource
from ttc.program import Program

__all__ = ["FORMS", "Job", "Ranges", "make_jobs"]

FORMS = ("whole", "cut")
PROTOBUF_LIMIT_BYTES = 2**31 - 1
# Sizes of the letters at min, opt and max.
Ranges = tuple[Mapping[str, int], Mapping[str, int], Mapping[str, int]]


@dataclass(frozen=True, slots=True)
class Job:
    """One network to build.

    Attributes:
        name: of the engine.  role: of the graph it belongs to.  model: the network.
        inputs, outputs: its contract, with the profile's ranges.
    """

    name: str
    role: str
    model: ir.Model
    inputs: tuple[TensorRecord, ...]
    outputs: tuple[TensorRecord, ...]

    def task(self) -> Task:
        """The job as the compiler takes it."""
        proto = ir.to_proto(self.model)
        if (size := proto.ByteSize()) > PROTOBUF_LIMIT_BYTES:
            raise BackendError(
                f"{self.name}: {size} bytes with its weights, more than a network may have; "
                "build it without --bake"
            )
        return Task(self.name, self.inputs, self.outputs, proto.SerializeToString(deterministic=True))


def make_jobs(source: GraphSource, form: str, ranges: Ranges, bake: bool) -> tuple[list[Job], Program | None]:
    """The jobs of one graph, and its program in cut form."""
    model = source.model()
    if not bake and not source.foreign:
        free_weights(model)
    if form == "whole":
        return [_job(source.role, source.role, model, ranges)], None
    if source.foreign:
        raise InputError(
            f"{source.path}: not exported by ttc, so it has no ops to cut at; build it with --form whole"
        )
    passes: tuple[Callable[[ir.Model], bool], ...] = (plain_reshapes, inline_composites)
    run_passes(model, passes)
    parts = cut(model, source.role)
    return [_job(name, source.role, part, ranges) for name, part in parts.segments.items()], parts.program


def _job(name: str, role: str, model: ir.Model, ranges: Ranges) -> Job:
    graph = model.graph
    return Job(
        name,
        role,
        model,
        tuple(_record(value, ranges) for value in graph.inputs),
        tuple(_record(value, ranges) for value in graph.outputs),
    )


def _record(value: ir.Value, ranges: Ranges) -> TensorRecord:
    shape = shape_of(value)
    name = str(value.name)
    assert value.dtype is not None, f"{name} has no dtype"
    if unknown := {letter for dim in shape for letter in letters(dim)} - ranges[0].keys():
        raise InputError(
            f"tensor {name!r} has the dynamic dimension {sorted(unknown)[0]!r}; give its sizes with "
            f"--min-shapes, --opt-shapes and --max-shapes, as {sorted(unknown)[0]}:NUMBER"
        )
    kind = "weight" if value.metadata_props.get("ttc.kind") == "weight" else "tensor"
    low, usual, high = (sizes_of(shape, sizes) for sizes in ranges)
    return TensorRecord(name, kind, str(value.dtype.numpy()), shape, low, usual, high)
