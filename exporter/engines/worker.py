"""The process that builds one engine.

It is started as `python -m ttc.exporter.engines.worker BACKEND [TARGET …]` in the folder of an `EngineSpec`.
It reads the spec and, where there is one, timing.cache; it writes the `BuiltEngine` and timing.cache or,
where the engine is refused, error.json. Standard output carries progress: lines of phase, steps done, steps
in all, with tabs between them.
"""

import json
import sys
from pathlib import Path

from ttc.errors import TtcError
from ttc.exporter.engines.compile import Compiler
from ttc.exporter.engines.engine_spec import EngineSpec
from ttc.exporter.engines.tensorrt_api import TensorRT

__all__ = ["main"]


def main(backend: str, targets: tuple[str, ...]) -> None:
    """Build what lies in the current folder."""
    folder = Path()
    spec = EngineSpec.read(folder)
    timing = folder / "timing.cache"
    try:
        tensorrt = TensorRT.load(backend)
        tensorrt.register_plugins(targets)
        compiler = Compiler(tensorrt, targets, _step, timing.read_bytes() if timing.is_file() else None)
        built = compiler.build(spec)
    except TtcError as fault:
        error = {"error": str(fault), "kind": type(fault).__name__}
        (folder / "error.json").write_text(json.dumps(error))
        return
    if compiler.timing_cache is not None:
        timing.write_bytes(compiler.timing_cache)
    built.write(folder)


def _step(phase: str, done: int, total: int) -> bool:
    sys.stdout.write(f"{phase}\t{done}\t{total}\n")
    sys.stdout.flush()
    return True


if __name__ == "__main__":
    main(sys.argv[1], tuple(sys.argv[2:]))
