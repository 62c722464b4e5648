"""Build every engine in a process of its own, laid out in memory the same way each time.

TensorRT-RTX orders some tensors by their addresses, so what it writes depends on where the heap lies: two
builds in one process differ in the order of tensors. A fresh process gives the same bytes again when it has
no address randomisation, a fixed environment, and a heap of its own for every thread: threads that share one
move each other's addresses, differently each time. That holds for one installation on one machine; another
path or Python moves the heap too. The process also keeps the builder's memory and its crashes out of the
caller's; what it may not do stands in `ttc.exporter.engines.worker_limits`.
"""

import dataclasses
import json
import os
import shutil
import signal
import subprocess
import sys
import threading
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from types import ModuleType
from typing import Any

from ttc import errors
from ttc.errors import BackendError, TtcError
from ttc.exporter.engines import worker
from ttc.exporter.engines.engine_spec import FAILED, LOG_FILE, BuiltEngine, CompilerOptions, EngineSpec
from ttc.exporter.engines.fixed_addresses import command_at_fixed_addresses

__all__ = ["IsolatedCompiler", "start_worker"]

# What a library may need to be found; everything else would move the heap.
_KEPT_VARIABLES = ("LD_LIBRARY_PATH", "PATH", "SYSTEMROOT", "CUDA_VISIBLE_DEVICES", "TMPDIR")
_TENSORRT_VARIABLES = ("HOME", "CUDA_HOME", "CUDA_PATH")

# No engine that is known takes an hour.
_MOST_SECONDS = 24 * 3600.0
_MOST_SAID = 65536

# Far more heaps than the library has threads (six seen), and no caches that hand memory from one to another.
_HEAP_PER_THREAD = "glibc.malloc.arena_max=64:glibc.malloc.tcache_count=0"


@dataclass(eq=False, slots=True)
class IsolatedCompiler:
    """Builds engines with one backend for one list of targets, one after another.

    Attributes:
        options: how.
        folder: where the work lies while it is done; made and deleted again.
        step: see `TensorRT.progress_monitor`.
        timing_cache: content to start from, and after a build what it has become (TensorRT only).
        log: file that gets what the library says while it builds, added to its end.
        most_seconds: that one engine may take.
    """

    options: CompilerOptions
    folder: Path
    step: Callable[[str, int, int], bool]
    timing_cache: bytes | None = None
    log: Path | None = None
    most_seconds: float = _MOST_SECONDS
    _failure: TtcError | None = field(default=None, init=False)
    _process: "subprocess.Popen[str] | None" = field(default=None, init=False)
    _stopped: bool = field(default=False, init=False)

    def build(self, spec: EngineSpec, destination: Path) -> BuiltEngine:
        """Build one engine into the file `destination`.

        Raises:
            BackendError: the library refuses, with what it said, or its process crashed or took too long.
        """
        self._failure = None
        self.folder.mkdir()
        try:
            spec.write(self.folder)
            if self.timing_cache is not None:
                (self.folder / "timing.cache").write_bytes(self.timing_cache)
            code = self._run()
            built = self._result(spec, code)
            os.replace(built.file, destination)
            return dataclasses.replace(built, file=destination)
        finally:
            self._keep_log()
            shutil.rmtree(self.folder, ignore_errors=True)

    def stop(self) -> None:
        """End the process that builds, from another thread; the build then fails."""
        self._stopped = True
        if self._process is not None:
            self._process.kill()

    def _run(self) -> int:
        """Run the worker to its end, passing its progress on; return its exit code."""
        with (self.folder / "said").open("wb") as said:
            process = start_worker(worker, self.options, self.folder, stdin=subprocess.DEVNULL, stderr=said)
            self._process = process
            if self._stopped:
                process.kill()
            watch = threading.Timer(self.most_seconds, self._give_up, (process,))
            watch.daemon = True
            watch.start()
            try:
                assert process.stdout is not None
                with process.stdout as lines:
                    for line in lines:
                        self._take(line.rstrip("\n").split("\t"))
                return process.wait()
            finally:
                watch.cancel()
                if process.poll() is None:
                    process.kill()
                    process.wait()

    def _take(self, words: list[str]) -> None:
        """Take in a line of the worker's: progress, or why there is no engine."""
        if len(words) != 3:
            return
        if words[0] == FAILED:
            self._failure = getattr(errors, words[1])(json.loads(words[2]))
        elif words[1].isdecimal() and words[2].isdecimal():
            self.step(words[0], int(words[1]), int(words[2]))

    def _give_up(self, process: "subprocess.Popen[str]") -> None:
        self._failure = BackendError(
            f"one engine took longer than {self.most_seconds:g} s; its process was ended. Build it for fewer "
            "sizes or targets"
        )
        process.kill()

    def _result(self, spec: EngineSpec, code: int) -> BuiltEngine:
        if self._failure is not None:
            raise self._failure
        built = BuiltEngine.read(self.folder) if code == 0 else None
        if built is None:
            how = f"signal {signal.Signals(-code).name}" if code < 0 else f"exit code {code}"
            said = _tail(self.folder / "said").strip().splitlines()[-1:]
            raise BackendError(
                f"{spec.name}: the process that built it with {self.options.backend} ended with {how}"
                + "".join(f": {line}" for line in said)
            )
        if self.timing_cache is not None:
            self.timing_cache = (self.folder / "timing.cache").read_bytes()
        return built

    def _keep_log(self) -> None:
        said = self.folder / LOG_FILE
        if self.log is not None and said.is_file():
            with self.log.open("ab") as whole, said.open("rb") as content:
                shutil.copyfileobj(content, whole)


def start_worker(
    program: ModuleType, options: CompilerOptions, folder: Path, *, stdin: int, stderr: Any
) -> "subprocess.Popen[str]":
    """Start a module as a process that builds: in the folder of its work, laid out as described above.

    Args:
        program: the module. It is imported here, so that its bytecode is there: a process that had to make
            that first would lay its memory out otherwise.
        options: how it builds; its one argument.
        folder: its current folder.
        stdin: as of `subprocess.Popen`.
        stderr: likewise.
    """
    paths = os.pathsep.join(path for path in sys.path if path)
    kept = {name: os.environ[name] for name in _KEPT_VARIABLES if name in os.environ}
    fixed = {"PYTHONPATH": paths, "PYTHONHASHSEED": "0", "GLIBC_TUNABLES": _HEAP_PER_THREAD}
    if options.backend == "tensorrt":
        # Its kernels are compiled by Triton, which looks for a home and for CUDA; a user may have neither.
        kept |= {name: os.environ[name] for name in _TENSORRT_VARIABLES if name in os.environ}
        fixed["TRITON_CACHE_DIR"] = str(folder / "triton")
    return subprocess.Popen(
        command_at_fixed_addresses(["-P", "-m", program.__name__, options.to_json()]),
        cwd=folder,
        env=kept | fixed,
        stdin=stdin,
        stdout=subprocess.PIPE,
        stderr=stderr,
        text=True,
    )


def _tail(path: Path) -> str:
    """Return the last of what the process said, however much that was."""
    with path.open("rb") as file:
        file.seek(max(0, path.stat().st_size - _MOST_SAID))
        return file.read(_MOST_SAID).decode(errors="replace")
