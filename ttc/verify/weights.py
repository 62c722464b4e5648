"""The contents of a bundle's weights, every byte read.

Referenced shards: the sha256 of each, against that of the last `ttc verify --weights` of this bundle, and
that every graph weight is made of the tensors that its name calls for, in order. Packed weights are part of
files whose digests every opening checks; given the checkpoint, each is compared with the tensors it was made
of. In both cases no weight may hold NaN or infinity.
"""

import os
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from ttc.exporter.onnx.checkpoint import Checkpoint
from ttc.formats.manifest import MANIFEST_FILE
from ttc.formats.verification import Verification, file_digest
from ttc.model.bundle import Bundle
from ttc.verify.report import WeightsCheck

__all__ = ["check_weights"]

# So many faults of one kind are told; a bad copy has thousands.
_SHOWN = 5


def check_weights(
    bundle: Bundle, checkpoint: str | os.PathLike[str] | None, say: Callable[[str], None]
) -> WeightsCheck:
    """Read everything, as the module's text says.

    Args:
        bundle: opened.
        checkpoint: for a packed bundle, what to compare it with.
        say: called with a line of text before each piece of work.
    """
    faults: list[str] = []
    notes: list[str] = []
    shards: Mapping[str, str] = {}
    if bundle.weights_mode == "reference":
        shards = _digests(bundle, checkpoint, say)
        faults += _changed(bundle, shards, notes)
    where = checkpoint if bundle.weights_mode == "packed" else _root(bundle, checkpoint)
    if where is None:
        notes.append("packed weights were not compared with a checkpoint; name it with --checkpoint")
    say("reading weights")
    count, total, broken = 0, 0, []
    for name in bundle.weights:
        array = bundle.read_weight(name)
        count, total = count + 1, total + array.nbytes
        if not np.isfinite(array).all():
            broken.append(f"weight {name} holds NaN or infinity")
    faults += broken[:_SHOWN]
    if where is not None:
        faults += list(_against(bundle, Path(where), say))[:_SHOWN]
    return WeightsCheck(count, total, tuple(faults), tuple(notes), shards)


def _root(bundle: Bundle, checkpoint: str | os.PathLike[str] | None) -> str | None:
    return os.fspath(checkpoint) if checkpoint is not None else bundle.manifest.weights.root


def _digests(
    bundle: Bundle, checkpoint: str | os.PathLike[str] | None, say: Callable[[str], None]
) -> dict[str, str]:
    root = Path(str(_root(bundle, checkpoint)))
    found = {}
    for name in bundle.manifest.weights.shards:
        say(f"reading {name}")
        found[name] = file_digest(root / name)
    return found


def _changed(bundle: Bundle, shards: Mapping[str, str], notes: list[str]) -> Iterator[str]:
    manifest = bundle.path / MANIFEST_FILE
    record = Verification.read(manifest, manifest)
    before = record.shards if record else {}
    if new := sorted(shards.keys() - before.keys()):
        notes.append(f"contents of {len(new)} shards recorded now; there was nothing to compare them with")
    for name, digest in shards.items():
        if name in before and before[name] != digest:
            yield f"{name}: its content is not what the last verification read (sha256 {digest[:16]}…)"


def _against(bundle: Bundle, folder: Path, say: Callable[[str], None]) -> Iterator[str]:
    """Yield the differences of the bundle's weights from a checkpoint's tensors, expert by expert."""
    say(f"comparing with {folder}")
    with Checkpoint.open(folder) as source:
        for name, entry in bundle.weights.items():
            expected = source.weights.get(name)
            if expected is None:
                yield f"weight {name}: the checkpoint has no such weight"
                continue
            array = bundle.read_weight(name)
            parts = array if expected.stacked else array[np.newaxis]
            for i, tensor in enumerate(expected.tensors):
                stored = source.read(tensor)
                if parts[i].shape != stored.shape or not _equal(parts[i], stored):
                    which = f", part {i}" if expected.stacked else ""
                    yield f"weight {name}{which}: not the checkpoint's {tensor} in {entry.dtype}"


def _equal(array: npt.NDArray[Any], stored: npt.NDArray[Any]) -> bool:
    with np.errstate(over="ignore"):
        return bool(np.array_equal(array, stored.astype(array.dtype)))
