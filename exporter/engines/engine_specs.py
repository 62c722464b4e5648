"""From a graph to what the builder is asked for: networks, with their tensors and the ranges of those.

Whole form gives one job for every set of ranges; cut form one for every distinct segment, and the program
that strings them.
"""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass

import onnx_ir as ir

from ttc.base.dims import letters, sizes_of
from ttc.errors import BackendError, InputError
from ttc.exporter.engines.build_input import GraphSource
from ttc.exporter.engines.compile import Task
from ttc.exporter.passes.cut import Cut, cut
from ttc.exporter.passes.fix_dims import fix_dims
from ttc.exporter.passes.inline_composites import inline_composites
from ttc.exporter.passes.shapes import shape_of
from ttc.formats.engines import TensorRecord
from ttc.formats.program import Program

__all__ = ["FORMS", "Job", "Network", "Ranges", "cut_graph", "job_problems", "make_jobs"]

FORMS = ("whole", "cut")
PROTOBUF_LIMIT_BYTES = 2**31 - 1
# Sizes of the letters at min, opt and max.
Ranges = tuple[Mapping[str, int], Mapping[str, int], Mapping[str, int]]


@dataclass(frozen=True, slots=True)
class Network:
    """What one engine of a graph in whole form is built for: its name, and the ranges of its letters."""

    name: str
    ranges: Ranges


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
        """The job as the compiler takes it: whole, since the library reads it from memory."""
        ir.external_data.load_to_model(self.model)
        proto = ir.to_proto(self.model)
        if (size := proto.ByteSize()) > PROTOBUF_LIMIT_BYTES:
            raise BackendError(
                f"{self.name}: {size} bytes with its weights, more than a network may have; "
                "build it without --bake"
            )
        return Task(self.name, self.inputs, self.outputs, proto.SerializeToString(deterministic=True))


def make_jobs(
    source: GraphSource, form: str, networks: Sequence[Network], bake: bool
) -> tuple[list[Job], Program | None]:
    """The jobs of one graph, and its program in cut form, which takes one set of ranges."""
    if form == "whole":
        return [_whole(source, network, bake) for network in networks], None
    (network,) = networks
    parts = cut_graph(source, bake)
    jobs = [_job(name, source.role, part, network.ranges) for name, part in parts.segments.items()]
    return jobs, parts.program


def cut_graph(source: GraphSource, bake: bool) -> Cut:
    """A graph cut at its leaf ops; the same source gives the same program."""
    model = source.network_model(bake)
    inline_composites(model)
    return cut(model, source.role)


def job_problems(source: GraphSource, form: str, network: Network, model: ir.Model) -> Iterator[str]:
    """Why no job can be made of a graph in this form, known before it is tried."""
    if source.foreign and form == "cut":
        yield f"{source.path}: not exported by ttc, so it has no ops to cut at; build it with --form whole"
    try:
        for value in (*model.graph.inputs, *model.graph.outputs):
            _record(value, network.ranges)
    except InputError as fault:
        yield str(fault)


def _whole(source: GraphSource, network: Network, bake: bool) -> Job:
    model = source.network_model(bake)
    low, _, high = network.ranges
    fix_dims(model, {letter: size for letter, size in low.items() if size == high[letter]})
    return _job(network.name, source.role, model, network.ranges)


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
