"""Exporting a checkpoint of the real size: seconds, peak memory, bytes written.

The checkpoint is made here: correct headers, 118 GiB of holes (sparse files, a few MB on disk). The export
runs in a process of its own, so that its peak memory is its own.
"""

import json
import math
import resource
import struct
import subprocess
import sys
import tempfile
import time
from pathlib import Path

from ttc.model.config import ModelConfig
from ttc.model.weights import expected_tensors
from ttc.planning.models import released_config

ROOT = Path(__file__).parents[1]
CONFIG = released_config()
SHARDS = 24


def main() -> None:
    """Make the checkpoint, export it, print and write the figures."""
    with tempfile.TemporaryDirectory() as folder:
        checkpoint, bundle = Path(folder) / "checkpoint", Path(folder) / "real.bundle"
        weight_bytes = make_checkpoint(checkpoint)
        start = time.perf_counter()
        code = f"import ttc; ttc.export({str(checkpoint)!r}, {str(bundle)!r}, progress=print)"
        subprocess.run([sys.executable, "-c", code], check=True, cwd=ROOT)
        seconds = time.perf_counter() - start
        figures = {
            "layers": CONFIG["num_hidden_layers"],
            "checkpoint_gib": weight_bytes / 2**30,
            "seconds": seconds,
            "peak_memory_gib": resource.getrusage(resource.RUSAGE_CHILDREN).ru_maxrss / 2**20,
            "written_mb": sum(path.stat().st_size for path in bundle.iterdir()) / 1e6,
            "files_mb": {path.name: path.stat().st_size / 1e6 for path in sorted(bundle.iterdir())},
        }
    print(json.dumps(figures, indent=1))
    print(f"\nlimits: 300 s, 6 GiB, 60 MB; used: {seconds / 300:.1%} of the time, ", end="")
    print(f"{figures['peak_memory_gib'] / 6:.1%} of memory, {figures['written_mb'] / 60:.1%} of the bytes")


def make_checkpoint(folder: Path) -> int:
    """Write config.json, the index and sparse shards; returns the bytes of weights they stand for."""
    folder.mkdir()
    names = sorted(expected := expected_tensors(ModelConfig.from_hf(CONFIG)))
    per_shard = math.ceil(len(names) / SHARDS)
    index, total = {}, 0
    for number in range(SHARDS):
        file = f"model-{number + 1:05d}-of-{SHARDS:05d}.safetensors"
        header: dict[str, object] = {"__metadata__": {"format": "pt"}}
        at = 0
        for name in names[number * per_shard : (number + 1) * per_shard]:
            end = at + 2 * math.prod(expected[name])
            header[name] = {"dtype": "BF16", "shape": list(expected[name]), "data_offsets": [at, end]}
            index[name], at = file, end
        encoded = json.dumps(header).encode()
        with (folder / file).open("wb") as shard:
            shard.write(struct.pack("<Q", len(encoded)) + encoded)
            shard.truncate(8 + len(encoded) + at)
        total += at
    (folder / "model.safetensors.index.json").write_text(json.dumps({"weight_map": index}))
    (folder / "config.json").write_text(json.dumps(CONFIG))
    return total


if __name__ == "__main__":
    main()
