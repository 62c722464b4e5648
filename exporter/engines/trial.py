"""Ask the library what it makes of a network, in a process of its own
(`ttc.exporter.engines.trial_worker`).
"""

import contextlib
import json
import signal
import subprocess
import threading
from pathlib import Path
from types import TracebackType
from typing import Any, Self

from ttc.errors import BackendError
from ttc.exporter.engines import trial_worker
from ttc.exporter.engines.engine_spec import CompilerOptions, EngineSpec
from ttc.exporter.engines.isolated import start_worker
from ttc.exporter.engines.network import Network

__all__ = ["Trial"]


class Trial:
    """The process, which answers for one network after another. Use it as a context."""

    def __init__(self, options: CompilerOptions, folder: Path) -> None:
        """Start it in a folder, which is there already.

        Args:
            options: how it builds.
            folder: its current folder.
        """
        self._options = options
        self._said = (folder / "trial.said").open("w+b")
        self._process = start_worker(trial_worker, options, folder, stdin=subprocess.PIPE, stderr=self._said)

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, fault: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._process.kill()
        self._process.wait()
        for pipe in (self._process.stdin, self._process.stdout, self._said):
            with contextlib.suppress(BrokenPipeError):  # of a process that crashed before it read everything
                if pipe is not None:
                    pipe.close()

    def parse(self, name: str, folder: Path) -> Network:
        """Return what the library makes of the network in a folder (`OnnxFile.write`).

        Raises:
            BackendError: it refuses the network, or its process crashed.
        """
        answer = self._ask({"name": name, "folder": str(folder), "build": False})
        assert answer is not None, "a parse has all the time it wants"
        return Network.of(answer["network"])

    def builds(self, spec: EngineSpec, folder: Path, seconds: float) -> bool:
        """Return whether the library builds the network in a folder; False where it takes too long to tell.

        Raises:
            BackendError: it refuses the network, or its process crashed.
        """
        spec.write_ranges(folder)
        return self._ask({"name": spec.name, "folder": str(folder), "build": True}, seconds) is not None

    def _ask(self, request: dict[str, Any], seconds: float | None = None) -> dict[str, Any] | None:
        """Return the answer; None where it did not come in time, and the process was ended."""
        assert self._process.stdin is not None
        assert self._process.stdout is not None
        late = threading.Event()

        def stop() -> None:
            late.set()
            self._process.kill()

        watch = threading.Timer(seconds or 0.0, stop)
        watch.daemon = True
        if seconds is not None:
            watch.start()
        line = ""
        try:
            self._process.stdin.write(json.dumps(request) + "\n")
            self._process.stdin.flush()
            for line in self._process.stdout:
                if line.startswith("{"):  # the library may speak there too
                    break
        except BrokenPipeError:
            pass
        finally:
            watch.cancel()
        if not line.startswith("{"):
            if late.is_set():
                return None
            raise self._crash(request["name"])
        answer: dict[str, Any] = json.loads(line)
        if "refused" in answer:
            raise BackendError(answer["refused"])
        return answer

    def _crash(self, name: str) -> BackendError:
        code = self._process.wait()
        how = f"signal {signal.Signals(-code).name}" if code < 0 else f"exit code {code}"
        self._said.seek(0)
        last = self._said.read().decode(errors="replace").strip().splitlines()[-1:]
        return BackendError(
            f"{name}: the process that asked {self._options.backend} for it ended with {how}"
            + "".join(f": {line}" for line in last)
        )
