"""From a graph to the engines that it becomes.

In whole form that is one engine for every variant of the graph; in cut form one for every distinct segment,
and the program that says how segments and ops alternate.
"""

from collections.abc import Iterator, Sequence
from functools import partial
from pathlib import Path

import onnx_ir as ir

from ttc.base.dims import letters, sizes_of
from ttc.errors import BackendError, InputError
from ttc.exporter.engines.build_input import GraphSource
from ttc.exporter.engines.engine_spec import EngineSpec
from ttc.exporter.engines.onnx_file import MAX_PROTOBUF_BYTES, NETWORK_FILE
from ttc.exporter.engines.variants import EngineVariant, Ranges
from ttc.exporter.passes.fix_dims import fix_dims
from ttc.exporter.passes.inline_composites import inline_composites
from ttc.exporter.passes.inline_ops import inline_ops
from ttc.exporter.passes.partition import Partition, partition
from ttc.exporter.passes.prepare_weights import prepare_weights
from ttc.exporter.passes.shapes import shape_of
from ttc.exporter.passes.share_common import share_common
from ttc.formats.engines import TensorRecord
from ttc.formats.program import Program

__all__ = ["engine_specs", "partition_graph", "spec_problems"]

PROTOBUF_LIMIT_BYTES = 2**31 - 1


def engine_specs(
    source: GraphSource, form: str, variants: Sequence[EngineVariant], bake: bool, plugins: bool = False
) -> tuple[list[EngineSpec], Program | None]:
    """Return the engines of one graph and, in cut form, its program.

    Args:
        source: the graph.
        form: one of `ENGINE_FORMS`.
        variants: what whole graphs are built for; in cut form exactly one, whose ranges all segments take.
        bake: whether the weights are put into the engines.
        plugins: whether the backend has plugins for the ops; else it inlines their bodies.
    """
    if form == "whole":
        return [_whole(source, variant, bake, plugins) for variant in variants], None
    (variant,) = variants
    parts = partition_graph(source, bake)
    specs = [_spec(name, source.role, part, variant.ranges) for name, part in parts.segments.items()]
    return specs, parts.program


def partition_graph(source: GraphSource, bake: bool) -> Partition:
    """Partition a graph at its ops; the same source gives the same program."""
    model = source.network_model(bake)
    inline_composites(model)
    return partition(model, source.role)


def spec_problems(variant: EngineVariant, model: ir.Model) -> Iterator[str]:
    """Give the reasons why a graph has no engines, known before any is made."""
    try:
        for value in (*model.graph.inputs, *model.graph.outputs):
            _record(value, variant.ranges)
    except InputError as fault:
        yield str(fault)


def _whole(source: GraphSource, variant: EngineVariant, bake: bool, plugins: bool) -> EngineSpec:
    model = source.network_model(bake)
    if plugins:
        # A composite has no plugin of its own, and its nodes name one.
        inline_composites(model)
    else:
        # TensorRT-RTX's parser gives nodes of a body the same names in every call, and refuses a second
        # DequantizeLinear of one name; so a profile could not tell them apart either.
        inline_ops(model)
    share_common(model)
    if plugins:
        # TensorRT-RTX folds transposed weights into products, as its engines show; TensorRT's are not known.
        prepare_weights(model)
    low, _, high = variant.ranges
    fix_dims(model, {letter: size for letter, size in low.items() if size == high[letter]})
    return _spec(variant.name, source.role, model, variant.ranges)


def _spec(name: str, role: str, model: ir.Model, ranges: Ranges) -> EngineSpec:
    graph = model.graph
    return EngineSpec(
        name,
        role,
        tuple(_record(value, ranges) for value in graph.inputs),
        tuple(_record(value, ranges) for value in graph.outputs),
        partial(_write, name, model),
    )


def _write(name: str, model: ir.Model, folder: Path) -> None:
    """Write the network with its weights inside, since the library reads it from memory."""
    ir.external_data.load_to_model(model)
    proto = ir.to_proto(model)
    if (size := proto.ByteSize()) > MAX_PROTOBUF_BYTES:
        raise BackendError(
            f"{name}: {size} bytes with its weights, more than a network may have; build it without --bake"
        )
    (folder / NETWORK_FILE).write_bytes(proto.SerializeToString(deterministic=True))


def _record(value: ir.Value, ranges: Ranges) -> TensorRecord:
    shape = shape_of(value)
    name = str(value.name)
    assert value.dtype is not None, f"{name} has no dtype"
    if unknown := {letter for dim in shape for letter in letters(dim)} - ranges[0].keys():
        raise InputError(
            f"tensor {name!r} has the dynamic dimension {sorted(unknown)[0]!r}, which no graph of ttc has; "
            "export it again"
        )
    kind = "weight" if value.metadata_props.get("ttc.kind") == "weight" else "tensor"
    low, usual, high = (sizes_of(shape, sizes) for sizes in ranges)
    return TensorRecord(name, kind, str(value.dtype.numpy()), shape, low, usual, high)
