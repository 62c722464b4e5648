"""One ONNX file against what must come out of it: the `--check` of `polygraphy debug reduce`.

    python -m ttc.polygraphy_ext.check MODEL --golden golden.npz [--tolerance 3e-3]

Runs MODEL on ONNX Runtime with the inputs in golden.npz (`ttc.polygraphy_ext.layers` writes it), and
compares every output whose name is in there. Exit code 0: none is off by more than the tolerance (over the
largest value, where that exceeds 1); 1: one is; 2: nothing could be compared. It imports little, because
it is started once per step of a search.
"""

import argparse
import sys
from collections.abc import Mapping
from typing import Any

import numpy as np
import numpy.typing as npt

from ttc.verify.compare import distance

__all__ = ["check", "main"]


def check(model: str, golden: Mapping[str, npt.NDArray[Any]], tolerance: float) -> tuple[int, list[str]]:
    """Exit code, and a line per output. `golden`: "in:<name>" and "out:<name>" → array."""
    import onnxruntime

    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads, options.log_severity_level = 1, 3
    session = onnxruntime.InferenceSession(model, options, providers=["CPUExecutionProvider"])
    taken = [value.name for value in session.get_inputs()]
    if missing := [name for name in taken if f"in:{name}" not in golden]:
        return 2, [f"no value is saved for the input {missing[0]}"]
    names = [value.name for value in session.get_outputs() if f"out:{value.name}" in golden]
    if not names:
        return 2, ["none of the outputs is among the saved ones"]
    lines, worst = [], 0.0
    for name, got in zip(names, session.run(names, {n: golden[f"in:{n}"] for n in taken}), strict=True):
        expected = golden[f"out:{name}"].astype(np.float32)
        far = distance(np.asarray(got, np.float32), expected, by_rms=False)
        lines.append(f"{name}: off by {far:.3g}")
        worst = max(worst, far)
    return int(worst > tolerance), lines


def main() -> int:
    """Read the files, check, print."""
    parser = argparse.ArgumentParser(description=str(__doc__).splitlines()[0])
    parser.add_argument("model")
    parser.add_argument("--golden", required=True)
    parser.add_argument("--tolerance", type=float, default=3e-3)
    given = parser.parse_args()
    with np.load(given.golden) as arrays:
        code, lines = check(given.model, dict(arrays), given.tolerance)
    sys.stdout.write("\n".join(lines) + "\n")
    return code


if __name__ == "__main__":
    sys.exit(main())
