"""One graph → its engines, out of the cache or from the builder."""

import dataclasses
import json
import logging
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from ttc import __version__
from ttc.base.files import write_whole
from ttc.errors import BackendError, BundleError, InputError
from ttc.exporter.engines.build_phases import BuildPhase, joined
from ttc.exporter.engines.build_report import GraphReport
from ttc.exporter.engines.cache import EngineCache, cache_key, default_cache_folder
from ttc.exporter.engines.isolated import IsolatedCompiler
from ttc.exporter.engines.lower_graph import engine_specs
from ttc.exporter.engines.planning import BuildPlan, GraphPlan
from ttc.exporter.engines.source_digests import builder_digest, kernel_digests
from ttc.formats.engines import EngineRecord
from ttc.formats.strictjson import Fields, parse_json

__all__ = ["BuiltGraph", "EngineBuilder", "Progress"]

logger = logging.getLogger(__name__)

# Called with (what, done, total).
Progress = Callable[[str, int, int], None]
_RECORDS_FILE = "records.json"


@dataclass(frozen=True, slots=True)
class BuiltGraph:
    """What one graph became.

    Attributes:
        role: the graph's role.
        files: name → content: engines, layers and, in cut form, the program.
        engines: name → what the manifest says of it.
        program: name of the program's file; None in whole form.
        report: what it cost.
    """

    role: str
    files: Mapping[str, bytes]
    engines: Mapping[str, EngineRecord]
    program: str | None
    report: GraphReport


class EngineBuilder:
    """Builds the graphs of a plan, or takes them from the cache.

    Attributes:
        notes: what the user should know afterwards, one sentence each.
    """

    def __init__(self, plan: BuildPlan, progress: Progress, folder: Path) -> None:
        """`folder`: where the work lies while it is done; must not be there yet."""
        settings = plan.settings
        self._plan, self._progress = plan, progress
        self._cache = EngineCache(default_cache_folder()) if settings.cache else None
        self._timing_file = None if settings.timing_cache is None else Path(settings.timing_cache)
        self._role = ""
        self._phases: dict[str, BuildPhase] = {}
        self.notes: list[str] = []
        timing = None
        if self._timing_file is not None:
            timing = self._timing_file.read_bytes() if self._timing_file.is_file() else b""
        self._compiler = IsolatedCompiler(settings.backend, plan.targets, folder, self._step, timing)

    def build(self, graph: GraphPlan) -> BuiltGraph:
        """Build one graph; twice, where the builds are to be compared.

        Raises:
            BackendError: the backend refuses it, or two builds of it differ.
        """
        start = time.perf_counter()
        self._role, self._phases = graph.source.role, {}
        twice = self._plan.settings.check_reproducible
        key = cache_key(self._about(graph) | {"kernels": kernel_digests(), "builder": builder_digest()})
        files = None if twice else self._from_cache(key)
        cached = files is not None
        if files is None:
            files = self._build(graph)
            if twice and self._build(graph) != files:
                raise BackendError(
                    f"{graph.source.role}: two builds of it differ; nothing was written. "
                    "The library orders some tensors by chance; try again on an idle machine"
                )
            self._put_into_cache(key, files, graph)
        return self._built(files, cached, time.perf_counter() - start)

    def save_timing_cache(self) -> None:
        """Write the timing cache back, if there is one."""
        if self._timing_file is not None and self._compiler.timing_cache is not None:
            write_whole(self._timing_file, self._compiler.timing_cache)

    def _build(self, graph: GraphPlan) -> dict[str, bytes]:
        """Return the files of a graph, as the cache keeps them."""
        settings = self._plan.settings
        specs, program = engine_specs(
            graph.source, settings.form, graph.variants, settings.bake, plugins=settings.backend == "tensorrt"
        )
        files: dict[str, bytes] = {}
        records = {}
        for done, spec in enumerate(specs):
            self._progress(spec.name, done, len(specs))
            built = self._compiler.build(spec)
            self._phases = joined(self._phases, built.phases)
            files[f"{spec.name}.engine"] = built.engine
            files[f"{spec.name}.layers.json"] = json.dumps([list(layer) for layer in built.layers]).encode()
            records[spec.name] = dataclasses.asdict(
                EngineRecord(spec.role, spec.inputs, spec.outputs, len(built.layers))
            )
        self._progress(graph.source.role, len(specs), len(specs))
        if program is not None:
            files[f"{graph.source.role}.program.json"] = json.dumps(program.to_dict()).encode()
        return files | {_RECORDS_FILE: json.dumps(records).encode()}

    def _built(self, files: Mapping[str, bytes], cached: bool, seconds: float) -> BuiltGraph:
        content = dict(files)
        engines = _records(content.pop(_RECORDS_FILE))
        sizes = {name: len(content[f"{name}.engine"]) for name in engines}
        layers = sum(engine.layers for engine in engines.values())
        program = f"{self._role}.program.json"
        report = GraphReport(self._role, sizes, cached, seconds, layers, self._phases)
        return BuiltGraph(self._role, content, engines, program if program in content else None, report)

    def _from_cache(self, key: str) -> dict[str, bytes] | None:
        """Return what the cache has; nothing for a build that signs, which vouches for what it writes."""
        if self._cache is None or self._plan.settings.sign is not None:
            return None
        files = self._cache.get(key)
        try:
            whole = files is not None and all(
                f"{name}.engine" in files for name in _records(files.get(_RECORDS_FILE, b""))
            )
        except BundleError:
            whole = False
        return files if whole else None

    def _put_into_cache(self, key: str, files: Mapping[str, bytes], graph: GraphPlan) -> None:
        if self._cache is None:
            return
        try:
            self._cache.put(key, files, self._about(graph))
        except InputError as fault:  # what was built is good without the cache
            logger.warning("%s", fault)
            self.notes.append(f"not kept in the cache: {fault}")

    def _about(self, graph: GraphPlan) -> dict[str, Any]:
        """Return what decides what becomes of a graph, but for the sources of kernels and builder."""
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
            "baked": settings.bake or graph.source.third_party,
        }

    def _step(self, phase: str, done: int, total: int) -> bool:
        self._progress(f"{self._role}: {phase}", done, total)
        return True


def _records(raw: bytes) -> dict[str, EngineRecord]:
    """Return what the manifest says of each engine."""
    content = parse_json(raw, _RECORDS_FILE, BundleError)
    return dict(Fields({"engines": content}, _RECORDS_FILE, BundleError).each("engines", EngineRecord.take))
