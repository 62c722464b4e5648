"""One `.safetensors` file: its header checked in full, each tensor read when it is asked for.

The file: 8 bytes (little-endian length N of the header), N bytes of JSON, the data. The header is an object
`{name: {"dtype": "BF16", "shape": [2, 3], "data_offsets": [begin, end]}, …}`, offsets counted from the start
of the data, and may hold `"__metadata__": {text: text}`. A file is hostile until shown otherwise, so before
anything of it is used: the header's length is bounded; no key stands there twice; every tensor lies inside
the file and is as long as its shape and dtype say; tensors neither overlap nor leave holes, and the data
ends where the file ends.
"""

import hashlib
import math
import os
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from types import MappingProxyType
from typing import Any, Self

import numpy as np
import numpy.typing as npt

from ttc.base.dtypes import numpy_dtype
from ttc.base.files import OpenFile
from ttc.errors import CheckpointError, TtcError
from ttc.formats.strictjson import Fields, parse_json, quoted

__all__ = ["STORED_NAMES", "Array", "Shard", "TensorInfo"]

Array = npt.NDArray[Any]

# A tensor takes about a hundred bytes of it.
_MAX_HEADER_BYTES = 16 * 2**20
_MAX_RANK = 32
# Names in the file → dtypes.
_DTYPES: dict[str, np.dtype[Any]] = {
    "BOOL": numpy_dtype("bool"),
    "U8": numpy_dtype("uint8"),
    "I8": numpy_dtype("int8"),
    "U16": numpy_dtype("uint16"),
    "I16": numpy_dtype("int16"),
    "U32": numpy_dtype("uint32"),
    "I32": numpy_dtype("int32"),
    "U64": numpy_dtype("uint64"),
    "I64": numpy_dtype("int64"),
    "F8_E4M3": numpy_dtype("float8_e4m3fn"),
    "F8_E5M2": numpy_dtype("float8_e5m2"),
    "F8_E8M0": numpy_dtype("float8_e8m0fnu"),
    "F16": numpy_dtype("float16"),
    "BF16": numpy_dtype("bfloat16"),
    "F32": numpy_dtype("float32"),
    "F64": numpy_dtype("float64"),
}
# Dtypes by numpy's names → names in the file.
STORED_NAMES: Mapping[str, str] = MappingProxyType({dtype.name: name for name, dtype in _DTYPES.items()})


@dataclass(frozen=True, slots=True)
class TensorInfo:
    """Where one tensor lies in its file.

    Attributes:
        dtype: its numpy name ("bfloat16").
        shape: as stored.
        begin: first byte, counted from the start of the file.
        end: the byte after the last.
    """

    dtype: str
    shape: tuple[int, ...]
    begin: int
    end: int

    @property
    def nbytes(self) -> int:
        """Length in bytes."""
        return self.end - self.begin


class Shard:
    """An open, checked `.safetensors` file. Reading is thread-safe; arrays stay valid after `close`.

    Attributes:
        path: of the file.
        tensors: name → `TensorInfo`, in the order of the file's header.
        header_digest: sha256 of the header's JSON bytes, hexadecimal.
        size_bytes: of the file.
        mtime_ns: of the file, when it was opened.
    """

    __slots__ = ("_error", "_file", "_is_open", "header_digest", "mtime_ns", "path", "size_bytes", "tensors")

    def __init__(self, file: OpenFile, error: type[TtcError]) -> None:
        """Check the header of an open file; `error`: as in `open`."""
        self.path, self.size_bytes, self.mtime_ns = file.path, file.size_bytes, file.mtime_ns
        start = bytearray(min(8, self.size_bytes))
        file.fill(memoryview(start), 0)
        header = bytearray(_header(bytes(start), self.size_bytes, str(self.path), error))
        file.fill(memoryview(header), 8)
        self.header_digest = hashlib.sha256(header).hexdigest()
        self.tensors: Mapping[str, TensorInfo] = MappingProxyType(
            _tensors(bytes(header), self.size_bytes, str(self.path), error)
        )
        self._file, self._error, self._is_open = file, error, True

    @classmethod
    def open(cls, path: str | os.PathLike[str], error: type[TtcError] = CheckpointError) -> Self:
        """Check the header of the file `path` and hold it open.

        Args:
            path: of the file.
            error: the class of every refusal; the message names the file, and the tensor.
        """
        path = Path(path)
        try:
            file = OpenFile(path, error)
        except FileNotFoundError:
            raise error(f"{path}: the file is missing") from None
        except (OSError, ValueError) as fault:
            raise error(f"{path}: cannot be read ({fault})") from None
        try:
            return cls(file, error)
        except BaseException:
            file.close()
            raise

    def info(self, name: str) -> TensorInfo:
        """Return dtype, shape and offset of the tensor `name`."""
        try:
            return self.tensors[name]
        except KeyError:
            raise self._error(
                f"{self.path}: no tensor {quoted(name)} among its {len(self.tensors)}"
            ) from None

    def read(self, name: str) -> Array:
        """Return the tensor `name`, read-only, in memory of its own."""
        info = self.info(name)
        try:
            content = np.empty(info.nbytes, np.uint8)
        except MemoryError:
            raise self._error(
                f"{self.path}: tensor {quoted(name)} takes {info.nbytes} bytes, more memory than there is"
            ) from None
        self.fill(name, content.data, 0)
        content.flags.writeable = False
        return content.view(numpy_dtype(info.dtype)).reshape(info.shape)

    def fill(self, name: str, target: memoryview, begin: int) -> None:
        """Fill `target`, which is of bytes, with the bytes of the tensor `name` from its byte `begin` on."""
        info = self.info(name)
        if not self._is_open:
            raise self._error(f"{self.path}: closed; tensor {quoted(name)} can no longer be read")
        assert begin + len(target) <= info.nbytes, f"{begin + len(target)} of {info.nbytes} bytes"
        self._file.fill(target, info.begin + begin)

    def close(self) -> None:
        """Close the file; arrays that were read stay valid."""
        self._is_open = False
        self._file.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()


def _header(length: bytes, size: int, path: str, error: type[TtcError]) -> int:
    """Return the length of the header, from the first eight bytes of a file of `size` bytes."""
    if len(length) < 8:
        raise error(
            f"{path}: {len(length)} bytes are no .safetensors file, which starts with the 8 bytes of its "
            "header's length"
        )
    count = int.from_bytes(length, "little")
    if count > _MAX_HEADER_BYTES:
        raise error(
            f"{path}: its header claims {count} bytes, more than the {_MAX_HEADER_BYTES} that are allowed"
        )
    if count > size - 8:
        raise error(
            f"{path}: its header claims {count} bytes, but only {size - 8} follow; the file is truncated "
            "or no .safetensors file"
        )
    return count


def _tensors(header: bytes, size: int, path: str, error: type[TtcError]) -> dict[str, TensorInfo]:
    """Return all tensors that `header`, of a file of `size` bytes, names, each checked."""
    if not header.startswith(b"{"):
        raise error(f"{path}: the header is no JSON object: not a .safetensors file, or damaged")
    entries = parse_json(header, f"{path}: header", error)
    if not isinstance(entries, dict):
        raise error(f"{path}: the header is no JSON object")
    metadata = entries.pop("__metadata__", {})
    if not isinstance(metadata, dict) or not all(isinstance(value, str) for value in metadata.values()):
        raise error(f"{path}: __metadata__ is {quoted(metadata)}, an object of strings is due")
    start = 8 + len(header)
    tensors = {name: _tensor(name, entry, start, size, path, error) for name, entry in entries.items()}
    at, before = start, "the start of the data"
    for name, info in sorted(tensors.items(), key=lambda item: (item[1].begin, item[1].end)):
        if info.begin != at:
            fault = "overlaps" if info.begin < at else "leaves a hole after"
            raise error(
                f"{path}: tensor {quoted(name)} starts at byte {info.begin - start} of the data and "
                f"{fault} {before}, which ends at {at - start}"
            )
        at, before = info.end, f"tensor {quoted(name)}"
    if at != size:
        raise error(f"{path}: the file has {size - at} bytes after {before} that belong to no tensor")
    return tensors


def _tensor(name: str, entry: object, start: int, size: int, path: str, error: type[TtcError]) -> TensorInfo:
    fields = Fields(entry, f"{path}: tensor {quoted(name)}", error)
    stored = fields.string("dtype")
    if stored not in _DTYPES:
        fields.refuse("dtype", stored, "one of " + ", ".join(_DTYPES))
    dtype = _DTYPES[stored]
    shape = fields.integers("shape")
    offsets = fields.integers("data_offsets")
    fields.end()
    # numpy counts the elements of an empty array without its zeros, in 64 bits.
    if len(shape) > _MAX_RANK or math.prod(length for length in shape if length) * dtype.itemsize >= 2**62:
        fields.refuse("shape", shape, f"at most {_MAX_RANK} dimensions and 2**62 bytes")
    if len(offsets) != 2 or offsets[0] > offsets[1]:
        fields.refuse("data_offsets", offsets, "[begin, end] with begin ≤ end")
    begin, end = offsets
    if end > size - start:
        raise error(
            f"{path}: tensor {quoted(name)} ends at byte {end} of the data, but the file holds "
            f"{size - start}; "
            "the file is truncated or its header wrong"
        )
    expected = math.prod(shape) * dtype.itemsize
    if end - begin != expected:
        raise error(
            f"{path}: tensor {quoted(name)} of shape {list(shape)} in {stored} takes {expected} bytes, its "
            f"offsets say {end - begin}"
        )
    return TensorInfo(dtype.name, shape, start + begin, start + end)
