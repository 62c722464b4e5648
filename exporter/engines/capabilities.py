"""What a backend cannot build of our graphs, found before it is asked.

A foreign file has no part in this: of that the library itself says what it can build
(`ttc.exporter.engines.foreign_plan`).
"""

from collections.abc import Iterable, Iterator, Sequence

import onnx_ir as ir

from ttc.exporter.engines.build_input import GraphSource
from ttc.plugins.ops import DOMAIN
from ttc.profiles.build_profile import BuildProfile

__all__ = ["foreign_target_problems", "graph_problems", "profile_problems", "target_problems"]

# What TensorRT-RTX computes with from this compute capability on only; the latest first.
_FIRST_TARGET = {"FLOAT4E2M1": "12.0", "FLOAT8E4M3FN": "8.9"}
_MAX_TOP_K = 3840


def graph_problems(source: GraphSource, model: ir.Model, backend: str) -> Iterator[str]:
    """Give one sentence for every kind of thing in the graph that the backend cannot build.

    Args:
        source: the graph.
        model: its network, as it will be built.
        backend: "tensorrt-rtx" or "tensorrt".
    """
    file, config = source.path.name, source.config
    known = {(function.domain, function.name) for function in model.functions.values()}
    strange = {
        node.op_type: node
        for node in model.graph.all_nodes()
        if node.domain == DOMAIN and (node.domain, node.op_type) not in known
    }
    for op_type, node in strange.items():
        call = f"node {node.name!r} calls {DOMAIN}::{op_type}, made by another version of ttc"
        yield f"{file}: {call}; {backend} cannot build it; export it again"
    if max(config.num_experts_per_tok, config.topk_group) > _MAX_TOP_K:
        yield f"{file}: more than {_MAX_TOP_K} experts per token, the limit of {backend}"


def target_problems(model: ir.Model, backend: str, form: str, targets: Sequence[str]) -> Iterator[str]:
    """Give one sentence if a target has not all dtypes of the graph.

    In cut form TensorRT-RTX never sees such weights: ttc's own kernels read them, on every target.

    Args:
        model: a graph's network, as it will be built.
        backend: "tensorrt-rtx" or "tensorrt".
        form: "whole" or "cut".
        targets: compute capabilities; none: what the backend builds for by default.
    """
    if backend != "tensorrt-rtx" or form == "cut":
        return
    used = {v.dtype.name for v in (*model.graph.inputs, *model.graph.initializers.values()) if v.dtype}
    for dtype, first in _FIRST_TARGET.items():
        if dtype not in used:
            continue
        if not targets:
            yield (
                f"TensorRT-RTX has {dtype.lower()}, in which experts are stored, from {first} on only, and "
                f"without --sm it is not said for which GPUs to build; give --sm with {first} or later, or "
                "build with --form cut"
            )
            return
        older = [target for target in targets if _numbers(target) < _numbers(first)]
        if older:
            yield (
                f"target {', '.join(older)}: TensorRT-RTX has {dtype.lower()}, in which experts are stored, "
                f"from {first} on only; build with --form cut, where ttc's own kernels compute them, or for "
                "later targets, or quantise the experts to int8 or int4"
            )
            return


def foreign_target_problems(dtypes: Iterable[int], backend: str, targets: Sequence[str]) -> Iterator[str]:
    """Give one sentence for a dtype of a foreign file's tensors that a named target has not.

    Args:
        dtypes: of all its tensors, as ONNX numbers them.
        backend: "tensorrt-rtx" or "tensorrt".
        targets: compute capabilities; none: what the library builds for is its business.
    """
    if backend != "tensorrt-rtx":
        return
    numbers = set(dtypes)
    for dtype, first in _FIRST_TARGET.items():
        older = [target for target in targets if _numbers(target) < _numbers(first)]
        if ir.DataType[dtype].value in numbers and older:
            yield (
                f"target {', '.join(older)}: TensorRT-RTX has {dtype.lower()}, which this file uses, from "
                f"{first} on only; build for later targets"
            )


def _numbers(target: str) -> list[int]:
    return [int(number) for number in target.split(".")]


def profile_problems(source: GraphSource, profile: BuildProfile) -> Iterator[str]:
    """Give what in a profile does not fit the model, one sentence each."""
    limit = source.config.max_position_embeddings
    if profile.capacity.max > limit:
        yield (
            f"profile {profile.name}: capacity.max is {profile.capacity.max}, but the model has "
            f"{limit} positions; lower it with --max-shapes capacity:{limit}"
        )
    if profile.precision not in ("any", source.compute_dtype):
        yield (
            f"profile {profile.name}: precision is {profile.precision}, but the graphs compute in "
            f"{source.compute_dtype}; export with --dtype {profile.precision}, or choose another profile"
        )
