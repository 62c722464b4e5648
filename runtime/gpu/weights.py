"""Weights from the checkpoint's files onto the device.

Pieces go through two buffers of pinned memory: while the device copies one, the host fills the other. A stack
of experts is filled expert by expert on the device; the host never holds it. (What is stored in
another dtype is converted piece by piece on the way.)
"""

from collections.abc import Callable, Iterable, Mapping, Sequence

import numpy as np

from ttc.base.dtypes import stored_bytes
from ttc.model.bundle import Bundle
from ttc.runtime.gpu.device import DeviceArray, Scope

__all__ = ["Progress", "upload_weights", "weight_bytes"]

# (bytes done, bytes in all)
Progress = Callable[[int, int], None]
STAGING_BYTES = 64 * 2**20


def weight_bytes(bundle: Bundle, names: Iterable[str]) -> int:
    """Return the bytes of these graph weights on the device."""
    entries = (bundle.weights[name] for name in names)
    return sum(stored_bytes(entry.dtype, entry.shape) for entry in entries)


def upload_weights(
    bundle: Bundle,
    names: Iterable[str],
    scope: Scope,
    progress: Progress | None = None,
    staging_bytes: int = STAGING_BYTES,
    together: Mapping[str, Sequence[str]] | None = None,
) -> dict[str, DeviceArray]:
    """Put these graph weights on the scope's device, in their graph's shape and dtype, quantised as they are.

    Args:
        bundle: holds them.
        names: of the weights.
        scope: of the memory.
        progress: called with (bytes done, bytes in all).
        staging_bytes: size of each of the two pinned buffers.
        together: name → weights that differ in their first dimension only, to be laid one behind the other,
            so that the whole is a matrix too. It comes back under that name, beside its parts.

    Raises:
        DeviceMemoryError: not enough memory.
        BundleError, NumericsError: as `Bundle.read_weight`.
    """
    device, wanted = scope.device, list(names)
    total, done = weight_bytes(bundle, wanted), 0
    buffers = [device.pinned(staging_bytes) for _ in range(2)]
    turn = 0
    arrays = _joined(bundle, scope, together or {}, wanted)
    for name in wanted:
        entry = bundle.weights[name]
        array = arrays[name] = arrays.get(name) or scope.array(entry.dtype, entry.shape)
        offset = array.address - array.memory.address
        for part in bundle.weight_parts(name):
            raw = part.reshape(-1).view(np.uint8)
            for start in range(0, raw.nbytes, staging_bytes):
                piece = raw[start : start + staging_bytes]
                staged = buffers[turn][: piece.nbytes]
                staged[...] = piece
                device.wait()  # the other buffer's copy; this one's was waited for before that
                device.upload(DeviceArray.at(array.memory, offset, "uint8", piece.shape), staged)
                offset += piece.nbytes
                done += piece.nbytes
                turn = 1 - turn
            if progress is not None:
                progress(done, total)
    device.wait()
    return arrays


def _joined(
    bundle: Bundle, scope: Scope, together: Mapping[str, Sequence[str]], wanted: Sequence[str]
) -> dict[str, DeviceArray]:
    """Return memory for the weights that lie together: every whole, and its parts."""
    arrays: dict[str, DeviceArray] = {}
    for whole, parts in together.items():
        entries = [bundle.weights[name] for name in parts]
        assert set(parts) <= set(wanted), f"{whole} has parts that are not uploaded"
        assert len({(entry.dtype, entry.shape[1:]) for entry in entries}) == 1, f"{whole}: {entries}"
        shape = (sum(entry.shape[0] for entry in entries), *entries[0].shape[1:])
        array = arrays[whole] = scope.array(entries[0].dtype, shape)
        offset = 0
        for name, entry in zip(parts, entries, strict=True):
            arrays[name] = DeviceArray.at(array.memory, offset, entry.dtype, entry.shape)
            offset += arrays[name].nbytes
    return arrays
