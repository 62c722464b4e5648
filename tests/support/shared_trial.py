"""One process that builds for many tests: starting it costs more than a small network."""

import json
import os
import shutil
import subprocess
import sys
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path

from tests.support.plain_rtx import Plain
from ttc.exporter.engines import foreign_plan
from ttc.exporter.engines.engine_spec import BuiltEngine, CompilerOptions
from ttc.exporter.engines.isolated import IsolatedCompiler
from ttc.exporter.engines.trial import Trial

__all__ = ["PlainWorker", "shared_trial"]

ROOT = Path(__file__).parents[2]


@contextmanager
def shared_trial(options: CompilerOptions, folder: Path) -> Iterator[None]:
    """Let all builds of foreign files ask one process, of these options."""
    kept = [Trial(options, folder)]

    class Shared:
        """Stands for a `Trial` of its own; one that crashed is replaced."""

        def __init__(self, *_):
            if kept[0]._process.poll() is not None:
                kept[0].__exit__(None, None, None)
                kept[0] = Trial(options, folder)

        def __enter__(self):
            return kept[0]

        def __exit__(self, *_):
            pass

    def build(self, spec, destination):
        self.folder.mkdir()
        spec.write(self.folder)
        with Shared() as trial:
            assert trial.builds(spec, self.folder, 120)
        built = BuiltEngine.read(self.folder)
        os.replace(built.file, destination)
        shutil.rmtree(self.folder)
        return BuiltEngine(destination, built.layers, built.phases)

    before = foreign_plan.Trial, IsolatedCompiler.build
    foreign_plan.Trial, IsolatedCompiler.build = Shared, build
    try:
        yield
    finally:
        foreign_plan.Trial, IsolatedCompiler.build = before
        kept[0].__exit__(None, None, None)


class PlainWorker:
    """A process that builds with plain TensorRT-RTX; started again where a file crashes it."""

    def __init__(self) -> None:
        self._process: subprocess.Popen[str] | None = None

    def build(self, path: Path, shapes: Mapping[str, tuple[int, ...]], targets: tuple[str, ...]) -> Plain:
        """Build a file as `plain_build` does."""
        if self._process is None or self._process.poll() is not None:
            self._process = subprocess.Popen(
                [sys.executable, "-m", "tests.support.plain_rtx"],
                cwd=ROOT,
                env={**os.environ, "PYTHONPATH": str(ROOT)},
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                stderr=subprocess.DEVNULL,
                text=True,
            )
        assert self._process.stdin is not None
        assert self._process.stdout is not None
        self._process.stdin.write(
            json.dumps({"path": str(path), "shapes": shapes, "targets": targets}) + "\n"
        )
        self._process.stdin.flush()
        line = self._process.stdout.readline()
        if not line:
            self.close()
            return Plain("crash", {}, {})
        return Plain(**json.loads(line))

    def close(self) -> None:
        """End it."""
        if self._process is not None:
            self._process.kill()
            self._process.wait()
            for pipe in (self._process.stdin, self._process.stdout):
                pipe.close()
            self._process = None
