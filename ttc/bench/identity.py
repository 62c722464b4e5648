"""Which weights, which machine, when: what tells two runs apart that must not be compared, or only with care.

The scripts in `benchmarks/` take it from here too.
"""

import datetime as dt
import hashlib
import os
import platform
import subprocess
from collections.abc import Iterator, Sequence
from contextlib import ExitStack
from pathlib import Path

import numpy as np

from ttc import __version__
from ttc.bench.schema import Machine
from ttc.doctor import abilities as doctor
from ttc.errors import BundleError
from ttc.formats.shard import Array, Shard
from ttc.model.bundle import Bundle

__all__ = ["commit", "load_average", "machine", "now", "weights_digest"]

_SAMPLE = 64  # values from either end of a tensor
_PACKAGES = ("numpy", "onnxruntime", "torch", "triton", "tensorrt", "tensorrt_rtx")


def weights_digest(bundle: Bundle) -> str:
    """sha256 over name, shape, and the first and last 64 values (as float32) of every checkpoint tensor.

    The same for a packed and a referenced bundle of one checkpoint, whatever the layout of the graphs, and
    for bfloat16 weights computed in float32. It reads two pages of each tensor, not the 118 GiB: it tells
    models apart, it does not prove that none of their weights was touched.
    """
    digest = hashlib.sha256()
    with ExitStack() as shards:
        for name, tensor in sorted(_tensors(bundle, shards), key=lambda item: item[0]):
            flat = tensor.reshape(-1)
            ends = np.concatenate([flat[:_SAMPLE], flat[-_SAMPLE:]]).astype("<f4")
            digest.update(f"{name} {tensor.shape}\n".encode() + ends.tobytes())
    return digest.hexdigest()


def machine() -> Machine:
    """This machine, as `ttc doctor` sees it."""
    seen = doctor.examine()
    gpu = seen["gpu"]
    packages = {name: seen["packages"][name]["version"] for name in _PACKAGES if name in seen["packages"]}
    return Machine(
        cpu=seen["cpu"]["name"],
        cores=seen["cpu"]["usable_cores"],
        memory_bytes=seen["memory_bytes"],
        gpus=() if gpu is None else tuple(f"{d['name']}, driver {gpu['driver']}" for d in gpu["devices"]),
        system=f"{platform.system()} {platform.machine()}",
        python=seen["python"],
        ttc_version=__version__,
        commit=commit(),
        packages={name: found for name, found in packages.items() if found},
    )


def now() -> str:
    """Return the time in UTC, to the second, as ISO 8601."""
    return dt.datetime.now(dt.UTC).isoformat(timespec="seconds")


def load_average() -> float | None:
    """Return the system's load average over the last minute; None where it tells none."""
    try:
        return round(os.getloadavg()[0], 2)
    except (AttributeError, OSError):
        return None


def commit() -> str | None:
    """Commit of the checkout that `ttc` is imported from; None where it is installed, or git is not there."""
    root = Path(__file__).resolve().parents[2]
    if not (root / ".git").exists():
        return None
    head, changes = _git(root, "rev-parse", "HEAD"), _git(root, "status", "--porcelain")
    return head and head + ("+changes" if changes else "")


def _git(root: Path, *arguments: str) -> str | None:
    try:
        done = subprocess.run(
            # Without that option `status` writes to the checkout's index.
            ["git", "--no-optional-locks", "-C", str(root), *arguments],
            capture_output=True,
            text=True,
            timeout=20,
            check=True,
        )
    except (OSError, subprocess.SubprocessError):
        return None
    return done.stdout.strip() or None


def _tensors(bundle: Bundle, shards: ExitStack) -> Iterator[tuple[str, Array]]:
    """Yield every checkpoint tensor that the plain weights are made of, of which by reference nothing is
    copied, and every part of those that are quantised, as the graphs take it.
    """
    quantised = [name for name, entry in bundle.weights.items() if entry.layout]
    for name in quantised:
        yield from ((f"{name}.{i}", part) for i, part in enumerate(bundle.weight_parts(name)))
    plain = {name: entry for name, entry in bundle.weights.items() if not entry.layout}
    if bundle.weights_mode == "reference":
        root = Path(str(bundle.describe()["weights"]["root"]))
        wanted = {tensor for entry in plain.values() for tensor in entry.tensors}
        for file in bundle.manifest.weights.shards:
            shard = shards.enter_context(Shard.open(root / file, error=BundleError))
            yield from ((name, shard.read(name)) for name in shard.tensors if name in wanted)
        return
    for weight, entry in plain.items():
        array = bundle.read_weight(weight)
        parts: Sequence[Array] = list(array) if entry.stacked else [array]
        yield from zip(entry.tensors, parts, strict=True)
