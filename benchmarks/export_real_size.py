"""Exporting a checkpoint of the real size, plain and with quantised experts: seconds, memory, bytes written.

    python benchmarks/export_real_size.py [plain int8 nvfp4 …] [--turns N] [-o FILE]

The checkpoints are made here: correct headers over holes (sparse files, a few MB on disk each), 118 GiB in
BF16. Every export runs in a process of its own, so that its peak memory is its own. The formats take turns in
one run, since only then can they be compared.
"""

import argparse
import dataclasses
import json
import math
import os
import resource
import shlex
import statistics
import struct
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from ttc.base.dtypes import array_dtype, array_shape, numpy_dtype
from ttc.base.quantised import PLAIN, WEIGHT_FORMATS
from ttc.bench.identity import machine, now
from ttc.bench.record_file import record_file, write_record
from ttc.formats.quantised.layouts import graph_dtypes, piece_shapes
from ttc.model.config import ModelConfig
from ttc.model.weights import expected_tensors
from ttc.planning.models import released_config

ROOT = Path(__file__).parents[1]
CONFIG = released_config()
SHARDS = 24
_STORED = {"bfloat16": "BF16", "float32": "F32", "int8": "I8", "uint8": "U8", "float8_e4m3fn": "F8_E4M3"}


def main() -> None:
    """Make each checkpoint, export it in turns, print the figures and write them."""
    parser = argparse.ArgumentParser(description="Time exports of the real size.")
    parser.add_argument("formats", nargs="*", default=[PLAIN, "int8"])
    parser.add_argument("--turns", type=int, default=1)
    parser.add_argument("-o", "--output", type=record_file)
    args = parser.parse_args()
    report: dict[str, Any] = {
        "command": shlex.join(["python", "benchmarks/export_real_size.py", *sys.argv[1:]]),
        "date": now(),
        "machine": dataclasses.asdict(machine()),
        "turns": [{word: measure(word) for word in args.formats} for _ in range(args.turns)],
    }
    print(json.dumps(report["turns"], indent=1))
    for word in args.formats:
        middle = {
            key: statistics.median(turn[word][key] for turn in report["turns"])
            for key in report["turns"][0][word]
        }
        print(
            f"{word}: limits 300 s, 6 GiB, 60 MB; used: {middle['seconds'] / 300:.1%} of the time, "
            f"{middle['peak_memory_gib'] / 6:.1%} of memory, {middle['written_mb'] / 60:.1%} of the bytes"
        )
    if args.output is not None:
        write_record(args.output, report)


def measure(word: str) -> dict[str, float]:
    """Export a checkpoint whose experts are stored in one format."""
    with tempfile.TemporaryDirectory() as folder:
        checkpoint, bundle = Path(folder) / "checkpoint", Path(folder) / "real.bundle"
        weight_bytes = make_checkpoint(checkpoint, word)
        before, start = _child_seconds(), time.perf_counter()
        code = (
            f"import resource, ttc; ttc.export({str(checkpoint)!r}, {str(bundle)!r}); "
            "print(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss)"
        )
        done = subprocess.run(
            [sys.executable, "-c", code], check=True, cwd=ROOT, stdout=subprocess.PIPE, text=True
        )
        return {
            "checkpoint_gib": weight_bytes / 2**30,
            "seconds": time.perf_counter() - start,
            "processor_seconds": _child_seconds() - before,
            "peak_memory_gib": int(done.stdout) / 2**20,
            "written_mb": sum(path.stat().st_size for path in bundle.iterdir()) / 1e6,
            "load_average": os.getloadavg()[0],
        }


def _child_seconds() -> float:
    used = resource.getrusage(resource.RUSAGE_CHILDREN)
    return used.ru_utime + used.ru_stime


def make_checkpoint(folder: Path, word: str = PLAIN) -> int:
    """Write config.json, the index and sparse shards; returns the bytes of weights they stand for.

    Args:
        folder: made.
        word: the format of the experts.
    """
    folder.mkdir()
    tensors = dict(sorted(_tensors(word)))
    names = list(tensors)
    per_shard = math.ceil(len(names) / SHARDS)
    index, total = {}, 0
    for number in range(SHARDS):
        file = f"model-{number + 1:05d}-of-{SHARDS:05d}.safetensors"
        header: dict[str, object] = {"__metadata__": {"format": "pt"}}
        at = 0
        for name in names[number * per_shard : (number + 1) * per_shard]:
            dtype, shape = tensors[name]
            end = at + numpy_dtype(dtype).itemsize * math.prod(shape)
            header[name] = {"dtype": _STORED[dtype], "shape": list(shape), "data_offsets": [at, end]}
            index[name], at = file, end
        encoded = json.dumps(header).encode()
        with (folder / file).open("wb") as shard:
            shard.write(struct.pack("<Q", len(encoded)) + encoded)
            shard.truncate(8 + len(encoded) + at)
        total += at
    (folder / "model.safetensors.index.json").write_text(json.dumps({"weight_map": index}))
    (folder / "config.json").write_text(json.dumps(CONFIG))
    if word != PLAIN:
        quantization = {"quant_algo": WEIGHT_FORMATS[word].algorithm, "exclude_modules": []}
        (folder / "hf_quant_config.json").write_text(json.dumps({"quantization": quantization}))
    return total


def _tensors(word: str) -> Iterator[tuple[str, tuple[str, tuple[int, ...]]]]:
    """Yield name, dtype and shape of every tensor of the checkpoint."""
    for name, shape in expected_tensors(ModelConfig.from_hf(CONFIG)).items():
        if word == PLAIN or ".mixer.experts." not in name:
            yield name, ("bfloat16", shape)
            continue
        kind = WEIGHT_FORMATS[word]
        shapes = piece_shapes(kind, shape)
        for suffix, dtype in graph_dtypes(kind).items():
            if suffix == "weight_scale_2" and word != "nvfp4":
                continue
            stored = dtype or "bfloat16"
            kept = array_dtype(stored), array_shape(stored, shapes[suffix])
            yield f"{name.removesuffix('weight')}{suffix}", kept


if __name__ == "__main__":
    main()
