"""One graph → its engines, out of the cache or from the builder."""

import dataclasses
import filecmp
import hashlib
import json
import logging
import shutil
import threading
import time
from collections import Counter
from collections.abc import Callable, Sequence
from concurrent.futures import FIRST_EXCEPTION, ThreadPoolExecutor, as_completed, wait
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

from ttc import __version__
from ttc.base.files import write_whole
from ttc.base.machine import usable_cores
from ttc.errors import BackendError, BundleError, InputError
from ttc.exporter.engines.build_phases import BuildPhase, joined
from ttc.exporter.engines.build_report import GraphReport
from ttc.exporter.engines.build_settings import BuildSettings
from ttc.exporter.engines.cache import EngineCache, cache_key, default_cache_folder
from ttc.exporter.engines.engine_pool import EnginePool
from ttc.exporter.engines.graph_job import GraphJob
from ttc.exporter.engines.source_digests import builder_digest, kernel_digests
from ttc.exporter.engines.timings import read_timings, timing_file
from ttc.formats.engines import EngineRecord
from ttc.formats.strictjson import Fields, parse_json

__all__ = ["LAYERS_ENDING", "BuiltGraph", "EngineBuilder", "Progress"]

logger = logging.getLogger(__name__)

# Called with (what, done, total).
Progress = Callable[[str, int, int], None]
_RECORDS_FILE = "records.json"
_ORDER = "The library orders some tensors by their addresses"
_FIXED = "; try again on an idle machine"
_NOT_FIXED = (
    ", and the system refuses to fix those (personality(2)), as Docker's filter of system calls does; run "
    "where it is allowed, as with docker run --security-opt seccomp=unconfined"
)
_OTHER_BYTES = f"another build may have other bytes. {_ORDER}{_NOT_FIXED}"
_NOT_OFFLINE = (
    "the libraries that built the engines were not kept off the network: the system takes no filter of "
    "system calls (seccomp)"
)
LAYERS_ENDING: Final = ".layers.json"


@dataclass(frozen=True, slots=True)
class BuiltGraph:
    """What one graph became.

    Attributes:
        role: the graph's role.
        files: engines, layers and, in cut form, the program.
        engines: name → what the manifest says of it.
        program: name of the program's file; None in whole form.
        is_fixed: whether all were built in memory at fixed addresses, now or when the cache got them.
        report: what it cost.
    """

    role: str
    files: tuple[Path, ...]
    engines: dict[str, EngineRecord]
    program: str | None
    is_fixed: bool
    report: GraphReport


class EngineBuilder:
    """Builds graphs, or takes them from the cache.

    With TensorRT-RTX, which builds in one thread, as many engines are built at once as there are cores.

    Attributes:
        notes: what the user should know afterwards, one sentence each.
    """

    def __init__(
        self,
        settings: BuildSettings,
        targets: tuple[str, ...],
        version: str | None,
        progress: Progress,
        folder: Path,
    ) -> None:
        """Prepare for building.

        Args:
            settings: the options of the build.
            targets: compute capabilities; empty: what the backend builds for by default.
            version: the backend's.
            progress: called as the work goes on.
            folder: where the work lies while it is done; must not be there yet.
        """
        self._settings, self._targets, self._version = settings, targets, version
        self._progress, self._folder = progress, folder
        # What is written to a log moves the library's memory, so that such a build is one of its own.
        use_cache = settings.cache and settings.log is None
        self._cache = EngineCache(default_cache_folder()) if use_cache else None
        self._timing_file = timing_file(settings, version)
        timings = None
        if self._timing_file is not None:
            timings = read_timings(self._timing_file)
        # TensorRT measures on the one GPU; a network with its weights inside is large.
        one_by_one = settings.bake or settings.backend == "tensorrt"
        log = None if settings.log is None else Path(settings.log)
        if log is not None:
            write_whole(log, b"")  # each engine adds to it
        options = settings.compiler_options(targets)
        at_once = 1 if one_by_one else usable_cores()
        self._engines = EnginePool(options, folder / "compile", at_once, timings, log)
        self._lock = threading.Lock()
        self._is_offline = True
        self.notes: list[str] = []

    def build(self, jobs: Sequence[GraphJob]) -> list[BuiltGraph]:
        """Build graphs; twice, where the builds are to be compared.

        Returns:
            What was made; its files lie in the folder of the work until somebody moves them.

        Raises:
            BackendError: the backend refuses one, or two builds of it differ.
            InputError: a source changed while it was built.
        """
        graphs = ThreadPoolExecutor(len(jobs))
        futures = [graphs.submit(self._graph, job) for job in jobs]
        try:
            wait(futures, return_when=FIRST_EXCEPTION)
            # A fault before those that only tell that the build was stopped.
            for future in sorted(futures, key=lambda each: not each.done()):
                future.result()
            return [future.result() for future in futures]
        finally:
            self._engines.stop()
            graphs.shutdown(cancel_futures=True)

    def _graph(self, job: GraphJob) -> BuiltGraph:
        start = time.perf_counter()
        phases: dict[str, BuildPhase] = {}
        folder = self._folder / "graphs" / job.role
        folder.mkdir(parents=True)
        twice = self._settings.check_reproducible
        about, key = self.about(job), self.key(job)
        cached = not twice and self._from_cache(key, folder)
        if not cached:
            self._build(job, folder, phases)
            if twice:
                self._build_again(job, folder, phases)
            job.check()
            if not self._is_offline and _NOT_OFFLINE not in self.notes:
                self.notes.append(_NOT_OFFLINE)
            self._put_into_cache(key, folder, about)
        built = _built(job.role, folder, cached, phases, time.perf_counter() - start)
        if self._settings.backend == "tensorrt-rtx" and not built.is_fixed and _OTHER_BYTES not in self.notes:
            self.notes.append(_OTHER_BYTES)
        return built

    def key(self, job: GraphJob) -> str:
        """Return the key of a graph's engines in the cache: of everything that decides their bytes."""
        return cache_key(self.about(job) | {"kernels": kernel_digests(), "builder": builder_digest()})

    def about(self, job: GraphJob) -> dict[str, Any]:
        """Return what decides the bytes, but for the sources of kernels and builder."""
        return dict(job.about) | {
            "backend": self._settings.backend,
            "version": self._version,
            "ttc": __version__,
            "targets": list(self._targets),
            "plugins": [_digest(Path(file)) for file in self._settings.plugins],
        }

    def save_timing_cache(self) -> None:
        """Write the timing cache back, if there is one."""
        if self._timing_file is not None and self._engines.timings is not None:
            try:
                write_whole(self._timing_file, self._engines.timings)
            except InputError as fault:
                self.notes.append(f"timings not kept: {fault}")

    def _build(self, job: GraphJob, folder: Path, phases: dict[str, BuildPhase]) -> None:
        """Write the files of a graph, as the cache keeps them, into a folder."""
        specs, program = job.specs()
        records, is_fixed = {}, True

        def step(phase: str, done: int, total: int) -> bool:
            self._tell(f"{job.role}: {phase}", done, total)
            return True

        self._tell(job.role, 0, len(specs))
        futures = {self._engines.submit(spec, folder / f"{spec.name}.engine", step): spec for spec in specs}
        for done, future in enumerate(as_completed(futures), 1):
            spec, built = futures[future], future.result()
            phases |= joined(phases, built.phases)
            is_fixed &= built.is_fixed
            self._is_offline &= built.is_offline
            layers = {"Layers": built.layers, "Bindings": [t.name for t in (*spec.inputs, *spec.outputs)]}
            (folder / f"{spec.name}{LAYERS_ENDING}").write_text(json.dumps(layers))
            record = EngineRecord(spec.role, spec.inputs, spec.outputs, len(built.layers))
            records[spec.name] = dataclasses.asdict(record)
            self._tell(job.role, done, len(specs))
        if program is not None:
            (folder / f"{job.role}.program.json").write_text(json.dumps(program.to_dict()))
        in_order = {spec.name: records[spec.name] for spec in specs}
        (folder / _RECORDS_FILE).write_text(json.dumps({"engines": in_order, "is_fixed": is_fixed}))

    def _build_again(self, job: GraphJob, first: Path, phases: dict[str, BuildPhase]) -> None:
        """Build once more beside the first, and raise unless all bytes are the same."""
        second = first.with_name(f"{first.name}.again")
        second.mkdir()
        self._build(job, second, phases)
        names = sorted({path.name for folder in (first, second) for path in folder.iterdir()})
        _, differing, missing = filecmp.cmpfiles(first, second, names, shallow=False)
        if differing or missing:
            _, is_fixed = _records((second / _RECORDS_FILE).read_bytes())
            raise BackendError(
                f"{job.role}: two builds of it differ ({', '.join([*differing, *missing])}); nothing was "
                f"written. {_ORDER}{_FIXED if is_fixed else _NOT_FIXED}"
            )
        shutil.rmtree(second)

    def _from_cache(self, key: str, folder: Path) -> bool:
        """Write what the cache has of a graph into a folder; return whether it has any.

        A build that signs takes nothing, since it vouches for what it writes.
        """
        if self._cache is None or self._settings.sign is not None:
            return False
        names = self._cache.take(key, folder)
        if _is_whole(folder, names):
            return True
        for name in names:
            (folder / name).unlink()
        return False

    def _put_into_cache(self, key: str, folder: Path, about: dict[str, Any]) -> None:
        if self._cache is None:
            return
        try:
            self._cache.put(key, {path.name: path for path in folder.iterdir()}, about)
        except InputError as fault:  # what was built is good without the cache
            logger.warning("%s", fault)
            self.notes.append(f"not kept in the cache: {fault}")

    def _tell(self, what: str, done: int, total: int) -> None:
        with self._lock:
            self._progress(what, done, total)


def _built(
    role: str, folder: Path, cached: bool, phases: dict[str, BuildPhase], seconds: float
) -> BuiltGraph:
    engines, is_fixed = _records((folder / _RECORDS_FILE).read_bytes())
    sizes = {name: (folder / f"{name}.engine").stat().st_size for name in engines}
    kinds: Counter[str] = Counter()
    for name in engines:
        layers = json.loads((folder / f"{name}{LAYERS_ENDING}").read_bytes())["Layers"]
        kinds.update(layer["LayerType"] for layer in layers)
    program = f"{role}.program.json"
    report = GraphReport(role, sizes, cached, seconds, dict(kinds.most_common()), phases)
    files = tuple(sorted(path for path in folder.iterdir() if path.name != _RECORDS_FILE))
    own = program if (folder / program).is_file() else None
    return BuiltGraph(role, files, engines, own, is_fixed, report)


def _is_whole(folder: Path, files: Sequence[str]) -> bool:
    """Whether all that the records of a cached graph name is among the files that were taken."""
    try:
        names, _ = _records((folder / _RECORDS_FILE).read_bytes() if _RECORDS_FILE in files else b"")
    except BundleError:
        return False
    return all(f"{name}{ending}" in files for name in names for ending in (".engine", LAYERS_ENDING))


def _records(raw: bytes) -> tuple[dict[str, EngineRecord], bool]:
    """Return what the manifest says of each engine, and whether all were built at fixed addresses."""
    fields = Fields(parse_json(raw, _RECORDS_FILE, BundleError), _RECORDS_FILE, BundleError)
    return dict(fields.each("engines", EngineRecord.take)), fields.boolean("is_fixed")


def _digest(file: Path) -> str:
    try:
        with file.open("rb") as content:
            return hashlib.file_digest(content, "sha256").hexdigest()
    except OSError as fault:
        raise InputError(f"{file}: cannot be read ({fault.strerror})") from None
