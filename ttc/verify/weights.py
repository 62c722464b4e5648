"""The contents of a bundle's weights, every byte read.

Referenced shards: the sha256 of each, against that of the last `ttc verify --weights` of this bundle, and
that every graph weight is made of the tensors that its name calls for, in order. Packed weights are part of
files whose digests every opening checks; given the checkpoint, each is compared with the tensors it was made
of, or was quantised from. In both cases no weight may hold NaN or infinity. Referenced weights that are
quantised are examined as `ttc.verify.quantised` says.
"""

import os
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from ttc.exporter.onnx.checkpoint import Checkpoint
from ttc.formats.manifest import ShardRecord, WeightMap, WeightSpec
from ttc.formats.quantised.layouts import LAYOUTS
from ttc.formats.quantised.measures import relative_error
from ttc.formats.verification import Verification, file_digest
from ttc.formats.weights import ReferencedWeights
from ttc.model.bundle import Bundle
from ttc.model.weights import in_dtype
from ttc.verify.quantised import check_quantised
from ttc.verify.report import WeightsCheck
from ttc.verify.tolerances import QUANTISED_ERRORS

__all__ = ["check_weights"]

Array = npt.NDArray[Any]

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
    if bundle.weights_mode == "reference" and where is not None and _is_quantised(bundle):
        with Checkpoint.open(where) as source:
            quantised = check_quantised(source, None, say)
        faults += quantised.faults[:_SHOWN]
        notes += quantised.notes
    return WeightsCheck(count, total, tuple(faults), tuple(notes), shards)


def _is_quantised(bundle: Bundle) -> bool:
    return any(spec.layout for spec in bundle.manifest.weights.map.values())


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
    record = Verification.read(bundle.path, bundle.manifest_sha256, None)
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
        quantised_there = any(spec.layout for spec in source.weights.values())
        was_made_from_it = _is_quantised(bundle) and not quantised_there
        specs = {name: in_dtype(spec, bundle.compute_dtype) for name, spec in source.weights.items()}
        shards = {name: ShardRecord.of(shard) for name, shard in source.shards.items()}
        weights = ReferencedWeights(WeightMap("reference", specs, str(folder), shards), None, str(folder))
        try:
            for name, own in (bundle.decoded_weights if was_made_from_it else bundle.weights).items():
                expected = specs.get(name)
                if expected is None:
                    yield f"weight {name}: the checkpoint has no such weight"
                    continue
                array = bundle.read_decoded(name, "float32") if was_made_from_it else bundle.read_weight(name)
                parts = array if expected.stacked else array[np.newaxis]
                for i, stored in enumerate(weights.parts(expected)):
                    if fault := _difference(own, parts[i], stored, was_made_from_it):
                        which = f", part {i}" if expected.stacked else ""
                        tensor = expected.parts[i][0]
                        yield f"weight {name}{which}: {fault} the checkpoint's {tensor} in {own.dtype}"
        finally:
            weights.close()


def _difference(own: WeightSpec, part: Array, stored: Array, was_made_from_it: bool) -> str | None:
    """Return how a part of a weight differs from what the checkpoint has.

    A quantised one may differ from the plain one that it was made from, by as much as its format allows.
    """
    if part.shape != stored.shape:
        return f"of shape {list(part.shape)}, not"
    if own.layout and was_made_from_it:
        word = LAYOUTS[own.layout].format.word
        error = relative_error(part.astype(np.float32), stored)
        return None if error <= QUANTISED_ERRORS[word] else f"relative error {error:.3g} in {word}, of"
    return None if np.array_equal(part, stored) else "not"
