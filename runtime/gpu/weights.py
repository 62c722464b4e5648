"""Weights from the checkpoint's files onto the device.

Threads read pieces of the files straight into a ring of pinned buffers, several at once; as soon as one is
full the device copies it, and an event says when the buffer may be filled again. A stack of experts is filled
expert by expert on the device; the host never holds it. What is stored in another dtype is converted on the
way.
"""

import contextlib
from collections import deque
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from ttc.base.dtypes import stored_bytes
from ttc.base.machine import usable_cores
from ttc.errors import BundleError, TtcError
from ttc.formats.manifest import WeightSpec
from ttc.formats.prepared_weights import PreparedWeight
from ttc.formats.strictjson import quoted
from ttc.formats.weight_readers import ConvertedPart, PartReader
from ttc.model.bundle import Bundle
from ttc.runtime.gpu.device import Device, DeviceArray, Scope

__all__ = ["Progress", "upload_weights", "weight_bytes", "weight_spec"]

# (bytes done, bytes in all)
Progress = Callable[[int, int], None]
# An expert of the released model has 10 MB; more readers than this get nothing more out of a disk.
STAGING_BYTES, MOST_READERS, BUFFERS_PER_READER = 16 * 2**20, 8, 2


def weight_bytes(bundle: Bundle, names: Iterable[str]) -> int:
    """Return the bytes of these graph weights on the device."""
    entries = (weight_spec(bundle, name) for name in names)
    return sum(stored_bytes(entry.dtype, entry.shape) for entry in entries)


def weight_spec(bundle: Bundle, name: str) -> WeightSpec:
    """Return a weight as engines take it, which may be a prepared one (`ttc.formats.prepared_weights`).

    Raises:
        BundleError: the bundle has no such weight, or it cannot be prepared so.
    """
    prepared = PreparedWeight.parse(name)
    spec = bundle.weights.get(prepared.weight)
    if spec is None:
        raise BundleError(f"{bundle.path}: no weight {quoted(prepared.weight)}, which the engines take")
    return prepared.spec(spec)


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
        names: of the weights, prepared or not.
        scope: of the memory.
        progress: called with (bytes done, bytes in all).
        staging_bytes: size of each of the pinned buffers, two for each thread that reads.
        together: name → weights that differ in their first dimension only, to be laid one behind the other,
            so that the whole is a matrix too. It comes back under that name, beside its parts.

    Raises:
        DeviceMemoryError: not enough memory.
        BundleError, NumericsError: as `Bundle.read_weight`.
    """
    wanted = list(names)
    arrays = _joined(bundle, scope, together or {}, wanted)
    for name in wanted:
        entry = weight_spec(bundle, name)
        arrays[name] = arrays.get(name) or scope.array(entry.dtype, entry.shape)
    total, done = weight_bytes(bundle, wanted), 0
    with _Ring(scope.device, min(MOST_READERS, usable_cores()), staging_bytes) as ring:
        for nbytes in ring.send(_pieces(bundle, wanted, arrays, staging_bytes)):
            done += nbytes
            if progress is not None:
                progress(done, total)
    return arrays


@dataclass(frozen=True, slots=True)
class _Piece:
    """A stretch of a part, not longer than a buffer, and where on the device it goes."""

    reader: PartReader
    begin: int
    target: DeviceArray


def _pieces(
    bundle: Bundle, names: Iterable[str], arrays: Mapping[str, DeviceArray], most_bytes: int
) -> Iterator[_Piece]:
    for name in names:
        array = arrays[name]
        offset = array.address - array.memory.address
        for reader in _readers(bundle, name):
            for begin in range(0, reader.nbytes, most_bytes):
                count = min(most_bytes, reader.nbytes - begin)
                yield _Piece(reader, begin, DeviceArray.at(array.memory, offset + begin, "uint8", (count,)))
            offset += reader.nbytes


def _readers(bundle: Bundle, name: str) -> Iterator[PartReader]:
    """Return what reads a weight's parts; one that is prepared is one part, made on the host."""
    prepared = PreparedWeight.parse(name)
    if not prepared.steps:
        return bundle.weight_readers(name)
    spec = weight_spec(bundle, name)
    return iter(
        [
            ConvertedPart(
                lambda: prepared.apply(bundle.read_weight(prepared.weight)),
                stored_bytes(spec.dtype, spec.shape),
            )
        ]
    )


class _Ring:
    """Pinned buffers in the order in which they become free, and those that are being filled.

    The thread that owns it does all that the device is asked for; the others read files.
    """

    def __init__(self, device: Device, readers: int, staging_bytes: int) -> None:
        self._device = device
        self._readers = ThreadPoolExecutor(readers, "ttc-weights")
        # With each buffer, the event after which the device no longer reads it.
        self._free: deque[tuple[npt.NDArray[np.uint8], Any]] = deque(
            (device.pinned(staging_bytes), None) for _ in range(readers * BUFFERS_PER_READER)
        )
        self._filling: deque[tuple[_Piece, npt.NDArray[np.uint8], Future[None]]] = deque()

    def send(self, pieces: Iterable[_Piece]) -> Iterator[int]:
        """Read and send pieces in their order, and yield the bytes of each that was sent; all of them are on
        the device afterwards.
        """
        for piece in pieces:
            if not self._free:
                yield self._send_oldest()
            buffer, event = self._free.popleft()
            if event is not None:
                self._device.wait_for(event)
            view = buffer[: piece.target.nbytes].data
            reading = self._readers.submit(piece.reader.fill, view, piece.begin)
            self._filling.append((piece, buffer, reading))
        while self._filling:
            yield self._send_oldest()
        self._device.wait()

    def _send_oldest(self) -> int:
        piece, buffer, reading = self._filling.popleft()
        reading.result()
        self._device.upload(piece.target, buffer[: piece.target.nbytes])
        self._free.append((buffer, self._device.record_event()))
        return piece.target.nbytes

    def __enter__(self) -> "_Ring":
        return self

    def __exit__(self, kind: type[BaseException] | None, *_: object) -> None:
        self._readers.shutdown(cancel_futures=True)
        if kind is not None:
            with contextlib.suppress(TtcError):  # buffers must outlive the copies; the first fault is told
                self._device.wait()


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
