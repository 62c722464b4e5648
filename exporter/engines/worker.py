"""The process that builds one engine: `python -m ttc.exporter.engines.worker` in the folder of the work.

Reads network.onnx, task.json and, where there is one, timing.cache; writes the engine (or nothing),
result.json and timing.cache. Standard output carries progress: lines of phase, steps done, steps in all,
between tabs.
"""

import dataclasses
import json
import sys
from pathlib import Path

from ttc.errors import TtcError
from ttc.exporter.engines.compile import Compiler, Task
from ttc.exporter.engines.tensorrt_api import TensorRT
from ttc.formats.engines import EngineRecord

__all__ = ["main"]


def main() -> None:
    """Build what lies in the current folder."""
    asked = json.loads(Path("task.json").read_bytes())
    record = EngineRecord.of(asked["record"])
    task = Task(asked["name"], record.inputs, record.outputs, Path("network.onnx").read_bytes())
    timing = Path("timing.cache")
    try:
        backend = TensorRT.load(asked["backend"])
        backend.register_plugins(asked["targets"])
        cache = timing.read_bytes() if timing.is_file() else None
        compiler = Compiler(backend, tuple(asked["targets"]), _step, cache)
        built = compiler.build(task)
    except TtcError as fault:
        Path("result.json").write_text(json.dumps({"error": str(fault), "kind": type(fault).__name__}))
        return
    Path("engine").write_bytes(built.engine)
    if compiler.timing_cache is not None:
        timing.write_bytes(compiler.timing_cache)
    result = dataclasses.asdict(built)
    del result["engine"]
    Path("result.json").write_text(json.dumps(result))


def _step(phase: str, done: int, total: int) -> bool:
    sys.stdout.write(f"{phase}\t{done}\t{total}\n")
    sys.stdout.flush()
    return True


if __name__ == "__main__":
    main()
