"""What `ttc build` makes of the models that ONNX tests backends with, beside plain TensorRT-RTX.

    python -m benchmarks.onnx_backend_models [--integers] [--seconds N] [--sm 8.9] [--json FILE]

The stored models and those of the node tests come with the package onnx. Each is built twice: by plain
TensorRT-RTX (`tests/support/plain_rtx.py`), and by what `ttc build` consists of: the file is opened, the
library asked for its network, sizes are given for open dimensions and values for inputs that decide shapes,
ones all of them, and the library builds. One process answers for many models on each side, since starting one
costs more than most of these networks.
"""

import argparse
import dataclasses
import json
import math
import random
import shutil
import sys
import tempfile
import time
import warnings
from collections import Counter
from collections.abc import Iterator
from importlib.metadata import version
from pathlib import Path
from typing import Any

import onnx

from tests.support.foreign_models import open_sizes
from tests.support.shared_trial import PlainWorker
from ttc.bench.identity import load_average, machine, now
from ttc.bench.record_file import record_file, write_record
from ttc.errors import TtcError
from ttc.exporter.engines.build_settings import BuildSettings
from ttc.exporter.engines.engine_spec import CompilerOptions
from ttc.exporter.engines.foreign_plan import examine
from ttc.exporter.engines.onnx_file import OnnxFile
from ttc.exporter.engines.trial import Trial

SECONDS = 120.0


def models(folder: Path) -> Iterator[tuple[str, Path]]:
    """Give name and file of every model; those of node tests are written into the folder."""
    data = Path(onnx.__file__).parent / "backend" / "test" / "data"
    for path in sorted([*data.glob("*/*/model.onnx"), *data.glob("light/*.onnx")]):
        yield f"stored/{path.relative_to(data)}", path
    from onnx.backend.test.case.node import collect_testcases

    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        cases = collect_testcases()
    for case in cases:
        path = folder / f"{case.name}.onnx"
        if case.model is not None:
            onnx.save(case.model, path)
            yield f"node/{case.name}", path


class OurWay:
    """What `ttc build` does with a file, in one process for many."""

    def __init__(self, targets: tuple[str, ...], folder: Path) -> None:
        self._options, self._folder = CompilerOptions("tensorrt-rtx", targets), folder
        self._trial: Trial | None = None

    def build(self, path: Path, shapes: dict[str, tuple[int, ...]], targets: tuple[str, ...]) -> str:
        """Return why a file is not built; empty where it is."""
        if self._trial is None:
            self._trial = Trial(self._options, self._folder)
        work = self._folder / "work"
        problems: list[str] = []
        try:
            file = OnnxFile.open(path)
            for step in ("look", "build"):
                (work / step).mkdir(parents=True)
            sizes = {name: {"opt": shape} for name, shape in (shapes | self._values(file, work)).items()}
            settings = BuildSettings(targets=targets, shapes=sizes)
            examine(file, settings, self._trial, work / "build", problems, SECONDS)
        except TtcError as fault:
            problems.append(str(fault))
        finally:
            shutil.rmtree(work, ignore_errors=True)
        if problems and "ended with" in problems[0]:
            self.close()
        return "; ".join(problems)

    def _values(self, file: OnnxFile, work: Path) -> dict[str, tuple[int, ...]]:
        """Return ones as the values of every input that decides shapes, as the plain side has them."""
        assert self._trial is not None
        file.write(work / "look")
        inputs = self._trial.parse("look", work / "look").inputs
        return {
            t.name: (1,) * math.prod(d for d in t.shape if isinstance(d, int)) for t in inputs if t.is_shape
        }

    def close(self) -> None:
        """End the process; the next file has a new one."""
        if self._trial is not None:
            self._trial.__exit__(None, None, None)
            self._trial = None


def takes_integers(path: Path) -> bool:
    """Whether a model has an input of integers, which may decide shapes by its values."""
    graph = onnx.load(path, load_external_data=False).graph
    weights = {tensor.name for tensor in graph.initializer}
    kinds = (onnx.TensorProto.INT32, onnx.TensorProto.INT64)
    return any(v.name not in weights and v.type.tensor_type.elem_type in kinds for v in graph.input)


def compare(seconds: float, targets: tuple[str, ...], integers: bool) -> dict[str, Any]:
    """Build the models both ways, in a shuffled order that is always the same, until the time is over."""
    counts: dict[str, Counter[str]] = {"stored": Counter(), "node": Counter()}
    differing, reasons, start = [], Counter[str](), time.monotonic()
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        plain, ours = PlainWorker(), OurWay(targets, folder)
        chosen = list(models(folder))
        if integers:
            chosen = [(model, path) for model, path in chosen if takes_integers(path)]
        random.Random(0).shuffle(chosen)
        for done, (model, path) in enumerate(chosen):
            if time.monotonic() - start > seconds:
                break
            if done % 20 == 0:
                print(f"{done} of {len(chosen)}: {dict(counts['node'])}", file=sys.stderr, flush=True)
            shapes = open_sizes(path)
            told, said = plain.build(path, shapes, targets).refused, ours.build(path, shapes, targets)
            kind = model.partition("/")[0]
            outcome = {
                (False, False): "both build",
                (True, True): "both refuse",
                (False, True): "plain alone builds",
                (True, False): "ttc alone builds",
            }[bool(told), bool(said)]
            counts[kind][outcome] += 1
            if "alone" in outcome:
                differing.append({"model": model, "plain": told[:300], "ttc": said[:300]})
            elif said:
                reasons[told.partition(":")[0]] += 1
        plain.close()
        ours.close()
    return {
        "date": now(),
        "machine": dataclasses.asdict(machine()),
        "load": load_average(),
        "versions": {name: version(name) for name in ("onnx", "tensorrt_rtx")},
        "targets": list(targets),
        "models": len(chosen),
        "with_integer_inputs_only": integers,
        "counts": {kind: dict(found) for kind, found in counts.items()},
        "refused_while": dict(reasons),
        "differing": differing,
        "seconds": round(time.monotonic() - start, 1),
    }


def main() -> None:
    """Compare, and write the record."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--seconds", type=float, default=float("inf"), help="stop after so long")
    parser.add_argument("--integers", action="store_true", help="only models with inputs of integers")
    parser.add_argument("--sm", default="8.9", help="compute capability to build for")
    parser.add_argument("--json", type=record_file, help="file to write the record to")
    arguments = parser.parse_args()
    record = compare(arguments.seconds, (arguments.sm,), arguments.integers)
    print(json.dumps(record, indent=1))
    if arguments.json is not None:
        write_record(arguments.json, record)


if __name__ == "__main__":
    main()
