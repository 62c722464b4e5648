"""One matrix or one tensor, from a range of a file into places in others.

A range is read, not mapped: mapped pages would count as the process' memory. A matrix of the released model
takes 10 MB in bfloat16 and 20 MB in float32; a tensor that is copied goes through a buffer.
"""

import os
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np

from ttc.base.dtypes import numpy_dtype
from ttc.base.quantised import PLAIN
from ttc.errors import CheckpointError, NumericsError
from ttc.formats.quantised.codecs import decode, encode
from ttc.formats.quantised.measures import relative_error, share_at_top

__all__ = ["Done", "Job", "Place", "do"]

_BUFFER_BYTES = 8 * 2**20


@dataclass(frozen=True, slots=True)
class Place:
    """Where a tensor is written."""

    file: str
    offset: int
    nbytes: int


@dataclass(frozen=True, slots=True)
class Job:
    """What is to be read, and what becomes of it.

    Attributes:
        name: of the matrix or tensor, for messages.
        format: "plain" copies.
        four_over_six: of NVFP4.
        shape, dtype: of a matrix (N, K).
        file, begin, nbytes: the range.
        places: by suffix; of a copy, the one "".
    """

    name: str
    format: str
    four_over_six: bool
    shape: tuple[int, ...]
    dtype: str
    file: str
    begin: int
    nbytes: int
    places: Mapping[str, Place]

    def to_dict(self) -> dict[str, Any]:
        """Return the form that goes to a worker."""
        return asdict(self)

    @classmethod
    def from_dict(cls, content: dict[str, Any]) -> "Job":
        """Return the job of `to_dict`."""
        places = {suffix: Place(**place) for suffix, place in content["places"].items()}
        return cls(**(content | {"places": places, "shape": tuple(content["shape"])}))


@dataclass(frozen=True, slots=True)
class Done:
    """What a matrix came out as; of a copy, zeros.

    Attributes:
        error: ‖decoded − matrix‖ / ‖matrix‖.
        at_top: share of codes at an end of their range.
    """

    error: float = 0.0
    at_top: float = 0.0


def do(job: Job) -> Done:
    """Carry a job out.

    Raises:
        CheckpointError: the file ended, or cannot be read any more.
        NumericsError: the matrix holds NaN or infinity.
    """
    if job.format == PLAIN:
        _copy(job)
        return Done()
    raw = bytearray(job.nbytes)
    _read(job, memoryview(raw), job.begin)
    matrix = np.frombuffer(raw, numpy_dtype(job.dtype)).reshape(job.shape)
    try:
        stored = encode(job.format, matrix, four_over_six=job.four_over_six)
        decoded = decode(job.format, stored)
    except NumericsError as fault:
        raise NumericsError(f"{job.name}: {fault}") from None
    for suffix, place in job.places.items():
        _write(place, np.ascontiguousarray(stored[suffix]).reshape(-1).view(np.uint8).data)
    return Done(relative_error(decoded, matrix), share_at_top(job.format, stored))


def _copy(job: Job) -> None:
    (place,) = job.places.values()
    buffer = memoryview(bytearray(min(job.nbytes, _BUFFER_BYTES)))
    for at in range(0, job.nbytes, _BUFFER_BYTES):
        part = buffer[: min(_BUFFER_BYTES, job.nbytes - at)]
        _read(job, part, job.begin + at)
        _write(Place(place.file, place.offset + at, len(part)), part)


def _read(job: Job, into: memoryview, begin: int) -> None:
    """Fill a buffer from the job's file."""
    try:
        with open(job.file, "rb", buffering=0) as file:
            file.seek(begin)
            at = 0
            while at < len(into):
                count = file.readinto(into[at:])
                if not count:
                    raise CheckpointError(f"{job.file}: ended inside {job.name}; it changed meanwhile")
                at += count
    except OSError as fault:
        raise CheckpointError(f"{job.file}: cannot be read ({fault.strerror})") from None


def _write(place: Place, content: memoryview) -> None:
    assert len(content) == place.nbytes, place
    descriptor = os.open(place.file, os.O_WRONLY | getattr(os, "O_BINARY", 0))
    try:
        os.lseek(descriptor, place.offset, os.SEEK_SET)
        at = 0
        while at < len(content):
            at += os.write(descriptor, content[at:])
    finally:
        os.close(descriptor)
