"""What a build will do, known before it starts."""

import dataclasses
import os
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import onnx_ir as ir

from ttc.base.names import ENGINE_BACKENDS
from ttc.base.tensorrt_package import backend_version
from ttc.errors import InputError, TtcError
from ttc.exporter.engines.build_input import BuildInput, GraphSource, read_build_input
from ttc.exporter.engines.build_settings import BuildSettings
from ttc.exporter.engines.capabilities import graph_problems, profile_problems
from ttc.exporter.engines.lower_graph import FORMS, EngineVariant, Ranges, spec_problems
from ttc.exporter.engines.memory import Memory, graph_memory, memory_per_gpu
from ttc.exporter.engines.tensorrt_api import check_targets
from ttc.formats.signing import sign
from ttc.profiles.build_profile import DIMENSIONS, BuildProfile, Range, load_build_profile

__all__ = ["BuildPlan", "GraphPlan", "make_plan"]

DEFAULT_PROFILE = "latency"
# Seconds a node of the graph and a distinct segment took with TensorRT-RTX 1.7 on two cores without a GPU.
_SECONDS_PER_NODE, _SECONDS_PER_SEGMENT = 0.017, 0.25
_USUAL_SEGMENTS = 5


@dataclass(frozen=True, slots=True)
class GraphPlan:
    """What is planned for one graph.

    Attributes:
        source: the graph.
        variants: what engines are built of it for.
        memory: at the largest sizes of the profile.
        nodes: how many it has.
        seconds: an estimate of what its build takes.
    """

    source: GraphSource
    variants: tuple[EngineVariant, ...]
    memory: Memory
    nodes: int
    seconds: float


@dataclass(frozen=True, slots=True)
class BuildPlan:
    """A build that was checked. `problems`: why it cannot be; `notes`: what was chosen for the user."""

    build_input: BuildInput
    output: Path
    settings: BuildSettings
    profile: BuildProfile
    targets: tuple[str, ...]
    version: str | None
    graphs: tuple[GraphPlan, ...]
    problems: tuple[str, ...]
    notes: tuple[str, ...]

    @property
    def memory_per_gpu(self) -> dict[str, dict[str, int]]:
        """Bytes by arrangement and GPU (`ttc.exporter.engines.memory.memory_per_gpu`)."""
        return memory_per_gpu({graph.source.role: graph.memory for graph in self.graphs})

    def to_dict(self) -> dict[str, Any]:
        """Ready for JSON."""
        return {
            "source": str(self.build_input.path),
            "output": str(self.output),
            "backend": self.settings.backend,
            "backend_version": self.version,
            "form": self.settings.form,
            "profile": self.profile.to_dict(),
            "targets": list(self.targets),
            "graphs": [
                {
                    "role": graph.source.role,
                    "nodes": graph.nodes,
                    "memory": dataclasses.asdict(graph.memory) | {"total": graph.memory.total},
                    "estimated_seconds": round(graph.seconds, 1),
                }
                for graph in self.graphs
            ],
            "memory_per_gpu": self.memory_per_gpu,
            "problems": list(self.problems),
            "notes": list(self.notes),
        }


def make_plan(
    model: str | os.PathLike[str], output: str | os.PathLike[str] | None, settings: BuildSettings
) -> BuildPlan:
    """Read the model, resolve the settings, and look for everything that will not work.

    Args:
        model: bundle folder or `.onnx` file.
        output: folder of the engines; None: BUNDLE/engines, FILE.engines.
        settings: the options of the build.

    Returns:
        The plan. What stands in the way of the build itself is listed in its `problems`.

    Raises:
        InputError: settings that mean nothing, or a file that cannot be read.
        BundleError: a damaged bundle.
    """
    if settings.backend not in ENGINE_BACKENDS:
        raise InputError(f"backend is {settings.backend!r}; valid: {', '.join(ENGINE_BACKENDS)}")
    if settings.form not in FORMS:
        raise InputError(f"form is {settings.form!r}; valid: {', '.join(FORMS)}")
    build_input = read_build_input(model)
    notes: list[str] = []
    profile = _profile(build_input, settings, notes)
    targets = profile.targets if settings.targets is None else settings.targets
    problems: list[str] = []
    version = None
    try:
        version = backend_version(settings.backend)
        check_targets(settings.backend, targets, build_input.graphs[0].compute_dtype)
    except TtcError as fault:
        problems.append(str(fault))
    problems.extend(profile_problems(build_input.graphs[0], profile))
    graphs = []
    for graph in build_input.graphs:
        network = graph.network_model(settings.bake)
        problems.extend(graph_problems(graph, network, settings.backend))
        planned = _graph_plan(graph, network, profile, settings)
        problems.extend(spec_problems(graph, settings.form, planned.variants[0], network))
        graphs.append(planned)
    notes.extend(_memory_notes(profile, {graph.source.role: graph.memory for graph in graphs}))
    place = Path(output) if output is not None else build_input.default_output
    if reason := _unusable(place):
        problems.append(reason)
    problems.extend(_option_problems(settings))
    return BuildPlan(
        build_input,
        place,
        settings,
        profile,
        targets,
        version,
        tuple(graphs),
        tuple(problems),
        tuple(notes),
    )


def _memory_notes(profile: BuildProfile, graphs: Mapping[str, Memory]) -> Iterator[str]:
    """What does not fit into the GPU that the profile is for."""
    if profile.gpu_memory_gb is None:
        return
    for gpus in memory_per_gpu(graphs).values():
        for who, need in gpus.items():
            if need > profile.gpu_memory_gb * 10**9:
                yield (
                    f"{who}: {need / 1e9:.1f} GB on one GPU, and profile {profile.name} is for "
                    f"{profile.gpu_memory_gb} GB"
                )


def _unusable(place: Path) -> str | None:
    """Why nothing can be written there, if so."""
    parent = next(folder for folder in (place, *place.parents) if folder.exists())
    if not parent.is_dir():
        return f"{place}: {parent} is a file; name another output"
    return (
        None if os.access(parent, os.W_OK) else f"{place}: {parent} cannot be written to; name another output"
    )


def _option_problems(settings: BuildSettings) -> Iterator[str]:
    """Give what is wrong with the timing cache and with the key to sign with."""
    if settings.timing_cache is not None and settings.backend == "tensorrt-rtx":
        yield "--timing-cache is for --backend tensorrt; TensorRT-RTX times nothing when it builds"
    if settings.sign is not None:
        try:
            sign(b"", settings.sign)
        except TtcError as fault:
            yield str(fault)


def _profile(build_input: BuildInput, settings: BuildSettings, notes: list[str]) -> BuildProfile:
    """The profile with its overrides; without one, the default fitted to the model."""
    changes = {name: ends for name, ends in settings.shapes.items() if name in DIMENSIONS}
    unknown = sorted(settings.shapes.keys() - set(DIMENSIONS))
    if unknown and not build_input.graphs[0].third_party:
        raise InputError(f"no dimension {unknown[0]!r}; valid: {', '.join(DIMENSIONS)}")
    if isinstance(settings.profile, BuildProfile):
        return settings.profile.override(changes)
    if settings.profile is not None:
        return load_build_profile(os.fspath(settings.profile)).override(changes)
    profile = load_build_profile(DEFAULT_PROFILE)
    config = build_input.graphs[0].config
    if config is not None and profile.capacity.max > config.max_position_embeddings:
        limit = config.max_position_embeddings
        block, chunk, capacity = (
            Range(min(size.min, limit), min(size.opt, limit), min(size.max, limit))
            for size in (profile.block, profile.chunk, profile.capacity)
        )
        profile = dataclasses.replace(profile, block=block, chunk=chunk, capacity=capacity)
        notes.append(f"profile {DEFAULT_PROFILE}, with its sizes lowered to the model's {limit} positions")
    return profile.override(changes)


def _graph_plan(
    source: GraphSource, model: ir.Model, profile: BuildProfile, settings: BuildSettings
) -> GraphPlan:
    ranges = _ranges(source, profile, settings)
    nodes = sum(1 for _ in model.graph)
    variants = _variants(source, profile, settings, ranges)
    whole = nodes * len(variants) * _SECONDS_PER_NODE
    seconds = _USUAL_SEGMENTS * _SECONDS_PER_SEGMENT if settings.form == "cut" else whole
    memory = Memory(0, 0, 0, 0, 0, 0) if source.third_party else graph_memory(model, ranges[2])
    return GraphPlan(source, variants, memory, nodes, seconds)


def _variants(
    source: GraphSource, profile: BuildProfile, settings: BuildSettings, ranges: Ranges
) -> tuple[EngineVariant, ...]:
    """Return one variant, or one for each length that the context tower reads at once."""
    lengths = profile.context_lengths if (source.role, settings.form) == ("context", "whole") else ()
    if source.third_party or len(lengths) < 2:
        return (EngineVariant(source.role, ranges),)
    low, usual, high = ranges
    variants = []
    for length in lengths:
        fixed = [{**sizes, "L": length, "R": min(sizes["R"], length)} for sizes in (low, usual, high)]
        variants.append(EngineVariant(f"context-{length}", (fixed[0], fixed[1], fixed[2])))
    return tuple(variants)


def _ranges(source: GraphSource, profile: BuildProfile, settings: BuildSettings) -> Ranges:
    if not source.third_party:
        low, usual, high = (profile.sizes(source.role, end) for end in ("min", "opt", "max"))
        return low, usual, high
    named: list[dict[str, int]] = [{}, {}, {}]
    for name, ends in settings.shapes.items():
        default = next(iter(ends.values()))
        for place, end in enumerate(("min", "opt", "max")):
            named[place][name] = ends.get(end, default)
    return named[0], named[1], named[2]
