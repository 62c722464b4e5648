"""What a backend cannot build, found before it is asked."""

from collections.abc import Iterator, Sequence

import onnx_ir as ir
from onnx import defs

from ttc.exporter.engines.build_input import GraphSource
from ttc.plugins.ops import DOMAIN
from ttc.profiles.build_profile import BuildProfile

__all__ = ["graph_problems", "profile_problems", "target_problems"]

OPSETS = range(13, 25)
_STANDARD = ("", "ai.onnx")
# Refused by the parser or builder of both.
_NOWHERE = (
    "Bernoulli",
    "BitShift",
    "BitwiseAnd",
    "BitwiseOr",
    "BitwiseXor",
    "DFT",
    "Det",
    "Multinomial",
    "Unique",
)
_UNSUPPORTED = {"tensorrt-rtx": ("NonZero", *_NOWHERE), "tensorrt": _NOWHERE}
_SEQUENCE_OPS = ("Sequence", "SplitToSequence")  # beginnings of names
_DTYPES = (
    "FLOAT",
    "FLOAT16",
    "BFLOAT16",
    "INT32",
    "INT64",
    "INT8",
    "UINT8",
    "BOOL",
    "INT4",
    "FLOAT8E4M3FN",
    "FLOAT4E2M1",
)
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
    file = source.path.name
    opset = next((model.opset_imports[domain] for domain in _STANDARD if domain in model.opset_imports), None)
    if opset is None or opset not in OPSETS:
        valid = f"{OPSETS.start} to {OPSETS.stop - 1}"
        yield f"{file}: opset {opset}; valid: {valid}; convert it or export it again"
    yield from _node_problems(file, model, opset, backend)
    for value in (*model.graph.inputs, *model.graph.outputs, *model.graph.initializers.values()):
        if value.dtype is not None and value.dtype.name not in _DTYPES:
            dtype = value.dtype.name.lower()
            yield f"{file}: tensor {value.name!r} is {dtype}, which {backend} does not know"
            break
    config = source.config
    if config is not None and max(config.num_experts_per_tok, config.topk_group) > _MAX_TOP_K:
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


def _numbers(target: str) -> list[int]:
    return [int(number) for number in target.split(".")]


def _node_problems(file: str, model: ir.Model, opset: int | None, backend: str) -> Iterator[str]:
    functions = model.functions.values()
    nodes = [*model.graph.all_nodes(), *(node for function in functions for node in function.all_nodes())]
    known = {(function.domain, function.name) for function in functions}
    seen: set[tuple[str, str]] = set()
    for node in nodes:
        kind = (node.domain, node.op_type)
        if kind in seen:
            continue
        seen.add(kind)
        if node.domain in _STANDARD:
            if node.op_type in _UNSUPPORTED[backend] or node.op_type.startswith(_SEQUENCE_OPS):
                yield f"{file}: {backend} has no {node.op_type} (node {node.name!r})"
            elif opset is not None and not defs.has(node.op_type, max_inclusive_version=opset):
                yield f"{file}: ONNX opset {opset} has no {node.op_type} (node {node.name!r})"
        elif kind not in known:
            ours = node.domain == DOMAIN
            what = "made by another version of ttc" if ours else "a custom op without a function body"
            call = f"node {node.name!r} calls {node.domain}::{node.op_type}, {what}"
            yield f"{file}: {call}; {backend} cannot build it"


def profile_problems(source: GraphSource, profile: BuildProfile) -> Iterator[str]:
    """Give what in a profile does not fit the model, one sentence each."""
    if source.config is None:
        return
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
