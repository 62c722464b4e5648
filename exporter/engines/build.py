"""A bundle or an ONNX file → TensorRT engines and their manifest."""

import dataclasses
import json
import logging
import os
import time
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from ttc import __version__
from ttc.errors import BackendError, InputError, TtcError
from ttc.exporter.engines.build_phases import Stage, joined, stage
from ttc.exporter.engines.cache import EngineCache, cache_key, default_cache_folder
from ttc.exporter.engines.isolated import IsolatedCompiler
from ttc.exporter.engines.lower_graph import engine_specs
from ttc.exporter.engines.planning import BuildPlan, GraphPlan, Settings, make_plan
from ttc.exporter.engines.source_digests import builder_digest, kernel_digests
from ttc.formats.atomic_folder import folder_writer
from ttc.formats.engines import ENGINES, MANIFEST_FILE, SIGNATURE_FILE, EngineRecord, EnginesManifest
from ttc.formats.signing import sign as signature_of
from ttc.profiles.build_profile import BuildProfile

__all__ = ["BuildReport", "GraphReport", "build", "extra_problems"]

logger = logging.getLogger(__name__)

Say = Callable[[str, int, int], None]


@dataclass(frozen=True, slots=True)
class GraphReport:
    """One graph: its engines with their sizes, where they came from, and what they cost.

    Attributes:
        layers: of all its networks.
        stages: "parse" and "build" (each engine in a process of its own; absent from the cache) and "write"
            (this process), with seconds and peak memory.
    """

    role: str
    engines: Mapping[str, int]
    cached: bool
    seconds: float
    layers: int
    stages: Mapping[str, Stage]

    @property
    def peak_bytes(self) -> int:
        """The largest resident memory of the processes that built it; 0 from the cache."""
        return max((stage.peak_bytes for name, stage in self.stages.items() if name != "write"), default=0)


@dataclass(frozen=True, slots=True)
class BuildReport:
    """What a build made. `reproducible`: whether a second build gave the same bytes; None where not asked."""

    output: Path
    backend: str
    backend_version: str
    form: str
    targets: tuple[str, ...]
    graphs: tuple[GraphReport, ...]
    seconds: float
    notes: tuple[str, ...]
    reproducible: bool | None

    def to_dict(self) -> dict[str, Any]:
        """Ready for JSON."""
        graphs = [dataclasses.asdict(graph) | {"peak_bytes": graph.peak_bytes} for graph in self.graphs]
        return dataclasses.asdict(self) | {"output": str(self.output), "graphs": graphs}


def build(
    model: str | os.PathLike[str],
    output: str | os.PathLike[str] | None = None,
    backend: str = "tensorrt-rtx",
    profile: str | os.PathLike[str] | BuildProfile | None = None,
    *,
    form: str = "whole",
    targets: tuple[str, ...] | None = None,
    shapes: Mapping[str, Mapping[str, int]] | None = None,
    bake: bool = False,
    cache: bool = True,
    check_reproducible: bool = False,
    layers: bool = False,
    sign: str | os.PathLike[str] | None = None,
    timing_cache: str | os.PathLike[str] | None = None,
    progress: Say | None = None,
) -> BuildReport:
    """Build engines for all graphs of a bundle, or for one ONNX file.

    Args:
        model: bundle folder or `.onnx` file.  output: folder of the engines; None: BUNDLE/engines,
            FILE.engines.
        backend: "tensorrt-rtx" or "tensorrt".  form: "whole" or "cut" (`ttc.formats.program`).
        profile: preset, TOML file or profile; None: "latency", fitted to the model.
        targets: compute capabilities like "8.9"; None: the profile's.
        shapes: single sizes of the profile replaced: {"batch": {"max": 8}}.
        bake: put the weights into the engines.  cache: look for the engines in the cache, and keep them
            there.
        check_reproducible: build everything twice and compare.  layers: also write the layers of every
            network.
        sign: PEM file of an ed25519 private key.  timing_cache: file to start from and to update (TensorRT).
        progress: called with (what, done, total) as the work goes on.

    Returns:
        What was made. On any error, and when killed, the output is as it was.

    Raises:
        InputError: model or settings are not valid.  BundleError: damaged, or the disk is full.
        BackendError: the backend is missing or refuses.
    """
    start = time.perf_counter()
    chosen = profile if profile is None or isinstance(profile, BuildProfile) else Path(profile)
    settings = Settings(backend, form, chosen, shapes or {}, targets, bake)
    plan = make_plan(Path(model), None if output is None else Path(output), settings)
    if problems := (*plan.problems, *extra_problems(backend, sign, timing_cache)):
        raise InputError("; ".join(problems))
    store = EngineCache(default_cache_folder()) if cache else None
    with folder_writer(plan.output, True, ENGINES) as staging:
        work = _Work(
            plan, store, progress or (lambda what, done, total: None), timing_cache, staging.path / "work"
        )
        parts = [work.graph(graph, check_reproducible) for graph in plan.graphs]
        reports = []
        for part in parts:
            stages = dict(part.report.stages)
            with stage(stages, "write"):
                for name, content in part.files.items():
                    if layers or not name.endswith(".layers.json"):
                        (staging.path / name).write_bytes(content)
            reports.append(dataclasses.replace(part.report, stages=stages))
        made = staging.commit(_manifest(plan, parts), _signer(sign))
    work.keep_timing_cache()
    return BuildReport(
        made,
        backend,
        str(plan.version),
        form,
        plan.targets,
        tuple(reports),
        time.perf_counter() - start,
        (*plan.notes, *work.notes),
        True if check_reproducible else None,
    )


def extra_problems(
    backend: str, sign: str | os.PathLike[str] | None, timing_cache: str | os.PathLike[str] | None
) -> Iterator[str]:
    """Why a build with these extras cannot be; beside the plan's own problems."""
    if timing_cache is not None and backend == "tensorrt-rtx":
        yield "--timing-cache is for --backend tensorrt; TensorRT-RTX times nothing when it builds"
    if sign is not None:
        try:
            signature_of(b"", sign)
        except TtcError as fault:
            yield str(fault)


@dataclass(frozen=True, slots=True)
class _Part:
    """What one graph became: files by name, records of the engines, whether there is a program."""

    role: str
    files: Mapping[str, bytes]
    engines: Mapping[str, EngineRecord]
    program: str | None
    report: GraphReport


class _Work:
    """Builds graphs, or takes them from the cache."""

    def __init__(
        self,
        plan: BuildPlan,
        cache: EngineCache | None,
        say: Say,
        timing_cache: str | os.PathLike[str] | None,
        folder: Path,
    ) -> None:
        self._plan, self._cache, self._say = plan, cache, say
        self._timing_file = None if timing_cache is None else Path(timing_cache)
        self._role = ""
        self._stages: dict[str, Stage] = {}
        self.notes: list[str] = []
        timing = None
        if self._timing_file is not None:
            timing = self._timing_file.read_bytes() if self._timing_file.is_file() else b""
        self._compiler = IsolatedCompiler(plan.settings.backend, plan.targets, folder, self._step, timing)

    def graph(self, graph: GraphPlan, twice: bool) -> _Part:
        start = time.perf_counter()
        self._role = graph.source.role
        self._stages = {}
        key = self._key(graph)
        found = None if self._cache is None or twice else self._cache.get(key)
        cached = found is not None
        if found is None:
            found = self._build(graph)
            if twice and self._build(graph) != found:
                raise BackendError(
                    f"{graph.source.role}: two builds of it differ; nothing was written. "
                    "The library orders some tensors by chance; try again on an idle machine"
                )
            if self._cache is not None:
                self._keep(key, found, graph)
        return self._part(graph.source.role, found, cached, time.perf_counter() - start)

    def _keep(self, key: str, found: dict[str, bytes], graph: GraphPlan) -> None:
        """Put a graph into the cache; what was built is good without it."""
        assert self._cache is not None
        try:
            self._cache.put(key, found, self._about(graph))
        except InputError as fault:
            logger.warning("%s", fault)
            self.notes.append(f"not kept in the cache: {fault}")

    def keep_timing_cache(self) -> None:
        """Write the timing cache back."""
        if self._timing_file is not None and self._compiler.timing_cache is not None:
            aside = self._timing_file.with_name(f".{self._timing_file.name}.{os.getpid()}")
            aside.write_bytes(self._compiler.timing_cache)
            os.replace(aside, self._timing_file)

    def _build(self, graph: GraphPlan) -> dict[str, bytes]:
        settings = self._plan.settings
        specs, program = engine_specs(graph.source, settings.form, graph.variants, settings.bake)
        files: dict[str, bytes] = {}
        records = {}
        for done, spec in enumerate(specs):
            self._say(spec.name, done, len(specs))
            built = self._compiler.build(spec)
            self._stages = joined(self._stages, built.stages)
            files[f"{spec.name}.engine"] = built.engine
            files[f"{spec.name}.layers.json"] = json.dumps([list(layer) for layer in built.layers]).encode()
            records[spec.name] = dataclasses.asdict(
                EngineRecord(spec.role, spec.inputs, spec.outputs, len(built.layers))
            )
        self._say(graph.source.role, len(specs), len(specs))
        if program is not None:
            files[f"{graph.source.role}.program.json"] = json.dumps(program.to_dict()).encode()
        return files | {"records.json": json.dumps(records).encode()}

    def _part(self, role: str, files: dict[str, bytes], cached: bool, seconds: float) -> _Part:
        kept = dict(files)
        engines = {
            name: EngineRecord.of(record) for name, record in json.loads(kept.pop("records.json")).items()
        }
        sizes = {name: len(kept[f"{name}.engine"]) for name in engines}
        layers = sum(engine.layers for engine in engines.values())
        program = f"{role}.program.json"
        report = GraphReport(role, sizes, cached, seconds, layers, self._stages)
        return _Part(role, kept, engines, program if program in kept else None, report)

    def _step(self, phase: str, done: int, total: int) -> bool:
        self._say(f"{self._role}: {phase}", done, total)
        return True

    def _key(self, graph: GraphPlan) -> str:
        return cache_key(self._about(graph) | {"kernels": kernel_digests(), "builder": builder_digest()})

    def _about(self, graph: GraphPlan) -> dict[str, Any]:
        settings = self._plan.settings
        return {
            "graph": graph.source.sha256,
            "role": graph.source.role,
            "dtype": graph.source.compute_dtype,
            "networks": {
                variant.name: [dict(sizes) for sizes in variant.ranges] for variant in graph.variants
            },
            "backend": settings.backend,
            "version": self._plan.version,
            "ttc": __version__,
            "form": settings.form,
            "targets": list(self._plan.targets),
            "baked": settings.bake or graph.source.foreign,
        }


def _manifest(plan: BuildPlan, parts: list[_Part]) -> EnginesManifest:
    first = plan.graphs[0].source
    return EnginesManifest(
        ttc_version=__version__,
        backend=plan.settings.backend,
        backend_version=str(plan.version),
        form=plan.settings.form,
        targets=plan.targets,
        compute_dtype=first.compute_dtype,
        profile=plan.profile.to_dict(),
        baked=plan.settings.bake or first.foreign,
        sources={graph.source.role: graph.source.sha256 for graph in plan.graphs},
        kernels={} if first.foreign else kernel_digests(),
        engines={name: engine for part in parts for name, engine in part.engines.items()},
        programs={part.role: part.program for part in parts if part.program is not None},
    )


def _signer(key: str | os.PathLike[str] | None) -> Callable[[Path], None] | None:
    """Writes the signature beside a finished manifest."""
    if key is None:
        return None

    def write(folder: Path) -> None:
        (folder / SIGNATURE_FILE).write_bytes(signature_of((folder / MANIFEST_FILE).read_bytes(), key))

    return write
