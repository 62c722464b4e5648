"""Building several engines at once, each in a process of its own."""

import threading
from collections.abc import Callable
from concurrent.futures import Future, ThreadPoolExecutor
from pathlib import Path

from ttc.errors import BackendError
from ttc.exporter.engines.engine_spec import BuiltEngine, CompilerOptions, EngineSpec
from ttc.exporter.engines.isolated import IsolatedCompiler

__all__ = ["EnginePool"]


class EnginePool:
    """Builds engines, so many at a time. Its methods may be called from any thread.

    Attributes:
        timings: content of the timing cache, which goes from each engine to the next (TensorRT only).
    """

    def __init__(
        self,
        options: CompilerOptions,
        folder: Path,
        at_once: int,
        timings: bytes | None = None,
        log: Path | None = None,
    ) -> None:
        """Prepare for building.

        Args:
            options: how.
            folder: where the work lies while it is done; must not be there yet.
            at_once: how many engines are built at a time.
            timings: content of the timing cache to start from; None: no timing cache.
            log: file that gets what the library says.
        """
        self._options, self._folder, self._log, self.timings = options, folder, log, timings
        self._threads = ThreadPoolExecutor(at_once)
        self._running: set[IsolatedCompiler] = set()
        self._lock = threading.Lock()
        self._stopped = False
        self._number = 0

    def submit(
        self, spec: EngineSpec, destination: Path, step: Callable[[str, int, int], bool]
    ) -> "Future[BuiltEngine]":
        """Have an engine built into the file `destination`; `step`: see `TensorRT.progress_monitor`."""
        return self._threads.submit(self._build, spec, destination, step)

    def stop(self) -> None:
        """End everything that is being built, and build nothing more."""
        with self._lock:
            self._stopped = True
            for compiler in self._running:
                compiler.stop()
        self._threads.shutdown(cancel_futures=True)

    def _build(
        self, spec: EngineSpec, destination: Path, step: Callable[[str, int, int], bool]
    ) -> BuiltEngine:
        with self._lock:
            if self._stopped:
                raise BackendError(f"{spec.name}: not built, since another engine could not be")
            self._number += 1
            work = self._folder / str(self._number)
            compiler = IsolatedCompiler(self._options, work, step, self.timings, self._log)
            self._running.add(compiler)
            self._folder.mkdir(parents=True, exist_ok=True)
        try:
            step(f"building {spec.name}", 0, 1)
            built = compiler.build(spec, destination)
        finally:
            with self._lock:
                self._running.discard(compiler)
        self.timings = compiler.timing_cache
        return built
