"""What a build will do, known before it starts."""

import dataclasses
import os
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import onnx_ir as ir

from ttc import __version__
from ttc.base.names import ENGINE_BACKENDS, ENGINE_FORMS
from ttc.base.tensorrt_package import backend_version
from ttc.errors import InputError, TtcError
from ttc.exporter.engines.build_input import BuildInput, GraphSource, read_build_input
from ttc.exporter.engines.build_settings import BuildSettings
from ttc.exporter.engines.capabilities import graph_problems, profile_problems, target_problems
from ttc.exporter.engines.foreign_plan import ForeignPlan, make_foreign_plan
from ttc.exporter.engines.graph_job import GraphJob
from ttc.exporter.engines.lower_graph import engine_specs, spec_problems
from ttc.exporter.engines.memory import Memory, graph_memory, memory_per_gpu
from ttc.exporter.engines.onnx_file import OnnxFile
from ttc.exporter.engines.source_digests import kernel_digests
from ttc.exporter.engines.tensorrt_api import check_targets
from ttc.exporter.engines.variants import EngineVariant, choose_profile, engine_variants, graph_ranges
from ttc.formats.atomic_folder import check_destination
from ttc.formats.engines import ENGINES, EngineRecord, EnginesManifest
from ttc.formats.signing import sign
from ttc.profiles.build_profile import BuildProfile

__all__ = ["BuildPlan", "GraphPlan", "make_plan"]

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
    """A build that was checked.

    Attributes:
        build_input: the model.
        output: folder of the engines.
        settings: the options, as they were given.
        profile: the profile, with its overrides.
        targets: compute capabilities; empty: what the backend builds for by default.
        version: the backend's; None: it is not installed.
        graphs: one plan for each, in the order of their roles.
        problems: why the build is not possible, one sentence each.
        notes: what was chosen for the user, one sentence each.
    """

    build_input: BuildInput
    output: Path
    settings: BuildSettings
    profile: BuildProfile
    targets: tuple[str, ...]
    version: str | None
    graphs: tuple[GraphPlan, ...]
    problems: tuple[str, ...]
    notes: tuple[str, ...]

    def jobs(self, progress: Callable[[str, int, int], None]) -> tuple[GraphJob, ...]:
        """Return the work on each graph."""
        return tuple(self._job(graph) for graph in self.graphs)

    def manifest(
        self,
        jobs: Sequence[GraphJob],
        engines: Mapping[str, EngineRecord],
        programs: Mapping[str, str],
        fixed_addresses: bool,
    ) -> EnginesManifest:
        """Return the manifest of what was built."""
        return EnginesManifest(
            ttc_version=__version__,
            backend=self.settings.backend,
            backend_version=str(self.version),
            form=self.settings.form,
            targets=self.targets,
            compute_dtype=self.graphs[0].source.compute_dtype,
            profile=self.profile.to_dict(),
            baked=self.settings.bake,
            fixed_addresses=fixed_addresses,
            sources={graph.source.role: graph.source.sha256 for graph in self.graphs},
            kernels=kernel_digests(),
            engines=engines,
            programs=programs,
        )

    def _job(self, graph: GraphPlan) -> GraphJob:
        source, settings = graph.source, self.settings
        about = {
            "graph": source.sha256,
            "role": source.role,
            "dtype": source.compute_dtype,
            "networks": {
                variant.name: [dict(sizes) for sizes in variant.ranges] for variant in graph.variants
            },
            "form": settings.form,
            "baked": settings.bake,
        }
        has_plugins = settings.backend == "tensorrt"
        return GraphJob(
            source.role,
            about,
            lambda: engine_specs(source, settings.form, graph.variants, settings.bake, has_plugins),
        )

    @property
    def memory_per_gpu(self) -> dict[str, dict[str, int]]:
        """Bytes by arrangement and GPU (`ttc.exporter.engines.memory.memory_per_gpu`)."""
        return memory_per_gpu({graph.source.role: graph.memory for graph in self.graphs})

    def to_dict(self) -> dict[str, Any]:
        """Return what `ttc build --dry-run --json` prints."""
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
    model: str | os.PathLike[str],
    output: str | os.PathLike[str] | None,
    settings: BuildSettings,
    try_seconds: float = 0.0,
) -> BuildPlan | ForeignPlan:
    """Read the model, resolve the settings, and look for everything that will not work.

    Args:
        model: bundle folder or `.onnx` file.
        output: folder of the engines; None: BUNDLE/engines, FILE.engines.
        settings: the options of the build.
        try_seconds: how long the library may try to build a foreign file, which tells what a look at it
            cannot; 0: it only parses it.

    Returns:
        The plan. What stands in the way of the build itself is listed in its `problems`.

    Raises:
        InputError: settings that mean nothing, or a file that cannot be read.
        BundleError: a damaged bundle.
    """
    if settings.backend not in ENGINE_BACKENDS:
        raise InputError(f"backend is {settings.backend!r}; valid: {', '.join(ENGINE_BACKENDS)}")
    if settings.form not in ENGINE_FORMS:
        raise InputError(f"form is {settings.form!r}; valid: {', '.join(ENGINE_FORMS)}")
    build_input = read_build_input(model, settings.checkpoint, settings.trust)
    problems: list[str] = []
    if isinstance(build_input, OnnxFile):
        folder = Path(output) if output is not None else build_input.path.with_suffix(".engines")
        version = _version(settings, settings.targets or (), None, problems)
        problems.extend([*_output_problems(folder), *_option_problems(settings)])
        return make_foreign_plan(build_input, folder, settings, version, problems, try_seconds)
    return _plan(build_input, output, settings)


def _plan(
    build_input: BuildInput, output: str | os.PathLike[str] | None, settings: BuildSettings
) -> BuildPlan:
    notes: list[str] = []
    problems: list[str] = []
    if settings.tf32:
        problems.append("--tf32 is for foreign ONNX files; models of ttc compute the same on all backends")
    profile = choose_profile(build_input.graphs[0], settings, notes)
    targets = profile.targets if settings.targets is None else settings.targets
    version = _version(settings, targets, build_input.graphs[0].compute_dtype, problems)
    problems.extend(profile_problems(build_input.graphs[0], profile))
    graphs = []
    for graph in build_input.graphs:
        network = graph.network_model(settings.bake)
        problems.extend(graph_problems(graph, network, settings.backend))
        problems.extend(target_problems(network, settings.backend, settings.form, targets))
        planned = _graph_plan(graph, network, profile, settings)
        problems.extend(spec_problems(planned.variants[0], network))
        graphs.append(planned)
    notes.extend(_memory_notes(profile, {graph.source.role: graph.memory for graph in graphs}))
    folder = Path(output) if output is not None else build_input.default_output
    problems.extend(_output_problems(folder))
    problems.extend(_option_problems(settings))
    return BuildPlan(
        build_input=build_input,
        output=folder,
        settings=settings,
        profile=profile,
        targets=targets,
        version=version,
        graphs=tuple(graphs),
        problems=tuple(dict.fromkeys(problems)),  # what is wrong with both towers is said once
        notes=tuple(notes),
    )


def _version(
    settings: BuildSettings, targets: tuple[str, ...], dtype: str | None, problems: list[str]
) -> str | None:
    """Return the backend's version; None, and a problem, where it is missing."""
    version = None
    try:
        version = backend_version(settings.backend)
        check_targets(settings.backend, targets, dtype)
    except TtcError as fault:
        problems.append(str(fault))
    return version


def _memory_notes(profile: BuildProfile, graphs: Mapping[str, Memory]) -> Iterator[str]:
    """Give what does not fit into the GPU that the profile is for, one sentence each."""
    if profile.gpu_memory_gb is None:
        return
    for gpus in memory_per_gpu(graphs).values():
        for who, need in gpus.items():
            if need > profile.gpu_memory_gb * 10**9:
                yield (
                    f"{who}: {need / 1e9:.1f} GB on one GPU, and profile {profile.name} is for "
                    f"{profile.gpu_memory_gb} GB"
                )


def _output_problems(output: Path) -> Iterator[str]:
    """Give why nothing can be written there, if so."""
    try:
        check_destination(output, True, ENGINES)
    except InputError as fault:
        yield str(fault)


def _option_problems(settings: BuildSettings) -> Iterator[str]:
    """Give what is wrong with the timing cache, with plugins, and with the key to sign with."""
    if settings.timing_cache is not None and settings.backend == "tensorrt-rtx":
        yield "--timing-cache is for --backend tensorrt; TensorRT-RTX times nothing when it builds"
    if settings.plugins and settings.backend == "tensorrt-rtx":
        yield "--plugins is for --backend tensorrt; TensorRT-RTX has no plugins"
    for file in settings.plugins:
        if not Path(file).is_file():
            yield f"--plugins {file}: no such file"
    if settings.sign is not None:
        try:
            sign(b"", settings.sign)
        except TtcError as fault:
            yield str(fault)


def _graph_plan(
    source: GraphSource, model: ir.Model, profile: BuildProfile, settings: BuildSettings
) -> GraphPlan:
    ranges = graph_ranges(source, profile)
    nodes = sum(1 for _ in model.graph)
    variants = engine_variants(source, profile, settings.form, ranges)
    whole = nodes * len(variants) * _SECONDS_PER_NODE
    seconds = _USUAL_SEGMENTS * _SECONDS_PER_SEGMENT if settings.form == "cut" else whole
    return GraphPlan(source, variants, graph_memory(model, ranges[2]), nodes, seconds)
