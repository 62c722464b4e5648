"""The process that builds one engine.

It is started as `python -m ttc.exporter.engines.worker OPTIONS` (`CompilerOptions` as JSON) in the folder of
an `EngineSpec`. It reads the spec and, where there is one, timing.cache; it writes the `BuiltEngine` and
timing.cache. Standard output carries progress, lines of phase, steps done and steps in all with tabs between
them; and, where there will be no engine, a last line of `FAILED`, the error's class and its message as JSON.
A pipe takes that even where a disk is full.
"""

import dataclasses
import json
import sys
from pathlib import Path

from ttc.errors import BackendError, TtcError
from ttc.exporter.engines.compile import Compiler
from ttc.exporter.engines.engine_spec import FAILED, CompilerOptions, EngineSpec
from ttc.exporter.engines.fixed_addresses import are_addresses_fixed
from ttc.exporter.engines.tensorrt_api import TensorRT
from ttc.exporter.engines.worker_limits import keep_offline, limit_resources

__all__ = ["main"]


def main(options: CompilerOptions) -> None:
    """Build what lies in the current folder."""
    try:
        limit_resources()
        _build(Path(), options, keep_offline(options.offline))
    except TtcError as fault:
        _tell(fault)
    except MemoryError:
        _tell(BackendError("the process that builds ran out of memory; build smaller engines, or elsewhere"))
    except OSError as fault:
        what = f"{fault.strerror or fault}" + (f": {fault.filename}" if fault.filename else "")
        _tell(BackendError(f"the process that builds cannot go on ({what})"))


def _build(folder: Path, options: CompilerOptions, is_offline: bool) -> None:
    spec = EngineSpec.read(folder)
    timing = folder / "timing.cache"
    timings = timing.read_bytes() if timing.is_file() else None
    compiler = Compiler(TensorRT.load(options.backend), options, _step, timings)
    built = compiler.build(spec, folder)
    if compiler.timing_cache is not None:
        timing.write_bytes(compiler.timing_cache)
    dataclasses.replace(built, is_fixed=are_addresses_fixed(), is_offline=is_offline).write(folder)


def _tell(fault: TtcError) -> None:
    sys.stdout.write(f"{FAILED}\t{type(fault).__name__}\t{json.dumps(str(fault))}\n")
    sys.stdout.flush()


def _step(phase: str, done: int, total: int) -> bool:
    sys.stdout.write(f"{phase}\t{done}\t{total}\n")
    sys.stdout.flush()
    return True


if __name__ == "__main__":
    main(CompilerOptions.from_json(sys.argv[1]))
