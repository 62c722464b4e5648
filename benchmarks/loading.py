"""How fast weights come from warm files into pinned memory: as the run time reads them, and one by one.

    python -m benchmarks.loading [--turns N] [--json FILE]

A checkpoint of the real size is made here, of holes but for the experts of one layer, which hold random
bytes; its bundle is exported by reference. The device is one that takes no time: what is measured is what the
host can bring. The plain way is that of the first version: a tensor into fresh memory, from there into one of
two pinned buffers, one thread. No GPU takes part.
"""

import argparse
import dataclasses
import json
import shlex
import statistics
import sys
import tempfile
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np

import ttc
from benchmarks.export_real_size import make_checkpoint
from tests.support.fake_device import FakeDevice
from ttc.base.machine import usable_cores
from ttc.bench.identity import load_average, machine, now
from ttc.bench.record_file import record_file, write_record
from ttc.formats.shard import Shard
from ttc.model.bundle import Bundle
from ttc.runtime.gpu.device import Memory, Scope
from ttc.runtime.gpu.weights import MOST_READERS, STAGING_BYTES, upload_weights, weight_bytes

LAYER = "context_tower.layers.1.mixer.experts."
PLAIN_STAGING_BYTES = 64 * 2**20


class InstantDevice(FakeDevice):
    """Copies nothing: a GPU's own engine does that beside the host. Its memory is no memory."""

    def allocate(self, nbytes: int) -> Memory:
        """Return addresses that nobody may touch."""
        return Memory(2**12, nbytes, lambda: None)

    def upload(self, target: Any, source: Any) -> None:
        """Take it as done."""


def main() -> None:
    """Measure in turns, print and write."""
    parser = argparse.ArgumentParser(description="Time the loading of weights from warm files.")
    parser.add_argument("--turns", type=int, default=5)
    parser.add_argument("--json", type=record_file)
    args = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        checkpoint = Path(folder) / "checkpoint"
        make_checkpoint(checkpoint)
        _write_random(checkpoint, LAYER)
        with Bundle.open(ttc.export(checkpoint, Path(folder) / "real.bundle")) as bundle:
            names = [name for name in bundle.weights if name.startswith(LAYER)]
            report = _measure(bundle, names, args.turns)
    print(json.dumps(report, indent=1))
    if args.json is not None:
        write_record(args.json, report)


def _measure(bundle: Bundle, names: Sequence[str], turns: int) -> dict[str, Any]:
    ways: dict[str, Callable[[Bundle, Sequence[str]], None]] = {"plain": _plain, "ring": _ring}
    rates: dict[str, list[float]] = {way: [] for way in ways}
    nbytes = weight_bytes(bundle, names)
    _plain(bundle, names)  # so that the files are warm
    for _ in range(turns):
        for way, load in ways.items():
            start = time.perf_counter()
            load(bundle, names)
            rates[way].append(nbytes / (time.perf_counter() - start) / 1e9)
    medians = {way: statistics.median(values) for way, values in rates.items()}
    return {
        "command": shlex.join(["python", "-m", "benchmarks.loading", *sys.argv[1:]]),
        "finished": now(),
        "load_at_end": load_average(),
        "machine": dataclasses.asdict(machine()),
        "bytes": nbytes,
        "threads": min(MOST_READERS, usable_cores()),
        "buffer_bytes": STAGING_BYTES,
        "gb_per_s": rates,
        "median_gb_per_s": medians,
        "ring_over_plain": medians["ring"] / medians["plain"],
    }


def _ring(bundle: Bundle, names: Sequence[str]) -> None:
    scope = Scope(InstantDevice())
    upload_weights(bundle, names, scope)
    scope.close()


def _plain(bundle: Bundle, names: Sequence[str]) -> None:
    device = InstantDevice()
    buffers, turn = [device.pinned(PLAIN_STAGING_BYTES) for _ in range(2)], 0
    for name in names:
        for part in bundle.weight_parts(name):
            raw = part.reshape(-1).view(np.uint8)
            for start in range(0, raw.nbytes, PLAIN_STAGING_BYTES):
                piece = raw[start : start + PLAIN_STAGING_BYTES]
                buffers[turn][: piece.nbytes] = piece
                turn = 1 - turn


def _write_random(checkpoint: Path, prefix: str) -> None:
    """Fill these tensors, which are holes, with bytes that no file system keeps for nothing."""
    numbers = np.random.default_rng(1)
    for path in sorted(checkpoint.glob("*.safetensors")):
        with Shard.open(path) as shard:
            places = [info for name, info in shard.tensors.items() if name.startswith(prefix)]
        with path.open("r+b") as file:
            for info in places:
                file.seek(info.begin)
                file.write(numbers.bytes(info.nbytes))


if __name__ == "__main__":
    main()
