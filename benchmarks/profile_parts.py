"""How much of a call's time the parts of `ttc profile` explain, on the miniature.

    python benchmarks/profile_parts.py [--repeats 50] [--output FILE.json]

Prints, for every phase and backend, the share of the call that is attributed to a layer, or to the embedding,
the time embedding, the head or the step. Exit code 1 when a phase that runs layers stays under 90 %.
"""

import argparse
import os
import sys
import tempfile
from pathlib import Path

os.environ.setdefault("OMP_NUM_THREADS", "1")

import ttc
from ttc.bench.record_file import record_file, write_record
from ttc.profiling.run import profile

MINIATURE = Path(ttc.__file__).parent / "miniature"
DUE = 0.9
BACKENDS = ("onnxruntime", "torch")  # those that need no GPU


def main() -> int:
    """Measure, print, and say whether enough is explained."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--repeats", type=int, default=50)
    parser.add_argument("--output", type=record_file)
    options = parser.parse_args()
    record: dict[str, object] = {}
    enough = True
    with tempfile.TemporaryDirectory() as folder:
        bundle = ttc.export(MINIATURE, Path(folder) / "mini.bundle", "float32")
        for backend in BACKENDS:
            found, _ = profile(bundle, backend, repeats=options.repeats)
            record[backend] = {
                "version": found.version,
                "phases": {p.name: {"explained": p.explained, "seconds": p.seconds} for p in found.phases},
            }
            for phase in found.phases:
                layered = any(part.layer is not None for part in phase.parts)
                enough &= phase.explained >= DUE or not layered
                print(f"{backend:12} {phase.name:15} {phase.explained:6.1%} of {phase.seconds * 1e3:8.3f} ms")
            print(f"{backend:12} {found.most_expensive}")
    if options.output is not None:
        write_record(options.output, record)
    return 0 if enough else 1


if __name__ == "__main__":
    sys.exit(main())
