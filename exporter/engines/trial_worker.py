"""A process that asks the library what it makes of networks, one after another.

It is started as `python -m ttc.exporter.engines.trial_worker OPTIONS` (`CompilerOptions` as JSON). Each line
of its standard input is a JSON object: the `folder` of a network, the `name` for messages, and whether to
`build` it for the `EngineSpec` in that folder, into that folder. It answers each with a line of JSON:
`network`, `built` or `refused`.
"""

import json
import sys
from pathlib import Path
from typing import Any

from ttc.errors import TtcError
from ttc.exporter.engines.compile import Compiler
from ttc.exporter.engines.engine_spec import CompilerOptions, EngineSpec
from ttc.exporter.engines.tensorrt_api import TensorRT
from ttc.exporter.engines.worker_limits import keep_offline, limit_resources

__all__ = ["main"]


def main(options: CompilerOptions) -> None:
    """Answer until standard input ends."""
    limit_resources()
    compiler: Compiler | None = None
    for line in sys.stdin:
        request = json.loads(line)
        try:
            if compiler is None:
                keep_offline(options.offline)
                compiler = Compiler(TensorRT.load(options.backend), options, lambda *step: True)
            answer = _answer(compiler, Path(request["folder"]), request)
        except TtcError as fault:
            answer = {"refused": str(fault)}
        except Exception as fault:  # whatever the library raises on a file
            answer = {"refused": f"{request['name']}: {type(fault).__name__}: {' '.join(str(fault).split())}"}
        sys.stdout.write(json.dumps(answer) + "\n")
        sys.stdout.flush()


def _answer(compiler: Compiler, folder: Path, request: dict[str, Any]) -> dict[str, Any]:
    if not request["build"]:
        return {"network": compiler.parse(folder, request["name"]).to_dict()}
    compiler.build(EngineSpec.read(folder), folder).write(folder)
    return {"built": True}


if __name__ == "__main__":
    main(CompilerOptions.from_json(sys.argv[1]))
