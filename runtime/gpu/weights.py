"""Weights from the checkpoint's files onto the device.

Pieces go through two buffers of pinned memory: while the device copies one, the host fills the other. A stack
of experts is filled expert by expert on the device; the host never holds it. (What is stored in
another dtype is converted piece by piece on the way.)
"""

from collections.abc import Callable, Iterable

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
) -> dict[str, DeviceArray]:
    """Put these graph weights on the scope's device, in their graph's shape and dtype, quantised as they are.

    Raises:
        DeviceMemoryError: not enough memory.
        BundleError, NumericsError: as `Bundle.read_weight`.
    """
    device, wanted = scope.device, list(names)
    total, done = weight_bytes(bundle, wanted), 0
    buffers = [device.pinned(staging_bytes) for _ in range(2)]
    turn = 0
    arrays = {}
    for name in wanted:
        entry = bundle.weights[name]
        array = arrays[name] = scope.array(entry.dtype, entry.shape)
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
