"""An ONNX file and the files that its weights lie in: where they may lie, and what all of it hashes to.

A tensor may keep its values in another file wherever a tensor may stand: among the initializers of the
graph, of a branch, of a loop's body or of a function, in an attribute, in either half of a sparse tensor. All
of them are found by walking the whole message, whatever it is made of.

The name of such a file is relative to the folder of the ONNX file and stays inside it. Links are followed: in
a Hugging Face cache the ONNX file and its data are links into another folder.
"""

import hashlib
import os
import posixpath
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Self

import onnx
import onnx_ir as ir
from google.protobuf.message import DecodeError, Message

from ttc.errors import InputError
from ttc.formats.bundle import graph_digest
from ttc.formats.strictjson import quoted

__all__ = ["MAX_PROTOBUF_BYTES", "NETWORK_FILE", "OnnxFile", "tensors_of"]

NETWORK_FILE = "network.onnx"
MAX_PROTOBUF_BYTES = 2**31 - 1
_CHUNK_BYTES = 2**24
_LFS_POINTER = b"version https://git-lfs.github.com/spec/"
# What tells whether a file is still the one that was looked at.
_Stamp = tuple[int, int, int, int]


@dataclass(frozen=True, slots=True)
class OnnxFile:
    """One ONNX file, its weights' values still on disk.

    Attributes:
        path: the file.
        proto: what it says.
        sha256: digest of the bytes of the file that `proto` was parsed from.
        data_files: location as the tensors write it → file; in the order in which the tensors name them.
        stamps: of all files, the ONNX file first, when it was opened.
    """

    path: Path
    proto: onnx.ModelProto
    sha256: str
    data_files: dict[str, Path]
    stamps: tuple[_Stamp, ...]

    @classmethod
    def open(cls, path: Path) -> Self:
        """Read the file and look at those that its weights lie in, without reading them.

        Raises:
            InputError: it is no ONNX file, or weights are missing, too short or outside its folder.
        """
        raw = _read(path)
        try:
            proto = onnx.ModelProto.FromString(raw)
        except DecodeError:
            raise InputError(f"{path}: not an ONNX file that can be read (no protobuf message)") from None
        if not (proto.graph.node or proto.graph.input or proto.graph.output):
            raise InputError(f"{path}: not an ONNX file that can be read: there is no graph in it")
        found: dict[str, Path] = {}
        for tensor in tensors_of(proto):
            if tensor.data_location == onnx.TensorProto.EXTERNAL:
                location, file = _data_file(path, tensor)
                found[location] = file
        digest = hashlib.sha256(raw).hexdigest()
        return cls(path, proto, digest, found, tuple(_stamp(file) for file in (path, *found.values())))

    @property
    def size_bytes(self) -> int:
        """Of all files together."""
        return sum(size for _, _, size, _ in self.stamps)

    def digest(self, progress: Callable[[int, int], None] | None = None) -> str:
        """Return the digest of every byte of all files (`ttc.formats.bundle.graph_digest`).

        Args:
            progress: called with (bytes done, bytes in all).
        """
        return graph_digest(self.sha256, tuple(self.data_digests(progress).values()))

    def data_digests(self, progress: Callable[[int, int], None] | None = None) -> dict[str, str]:
        """Return location → digest of each file that weights lie in; `progress` as of `digest`."""
        digests, done = {}, self.stamps[0][2]
        for location, file in self.data_files.items():
            total = hashlib.sha256()
            try:
                with file.open("rb") as content:
                    while chunk := content.read(_CHUNK_BYTES):
                        total.update(chunk)
                        done += len(chunk)
                        if progress is not None:
                            progress(done, self.size_bytes)
            except OSError as fault:
                raise InputError(f"{file}: cannot be read ({fault.strerror})") from None
            digests[location] = total.hexdigest()
        if progress is not None:
            progress(done, self.size_bytes)
        return digests

    def check_unchanged(self) -> None:
        """Raise `InputError` where a file is no longer what it was when it was opened."""
        for file, stamp in zip((self.path, *self.data_files.values()), self.stamps, strict=True):
            if _stamp(file) != stamp:
                raise InputError(f"{file}: changed while it was being built; build it again")

    def write(self, folder: Path) -> None:
        """Put the network into a folder, as `NETWORK_FILE`, with links to its weights beside it.

        It is what was parsed when the file was opened, whatever stands in its place by now. The links have
        names of their own, so that neither the names nor the folder of the user's files reach the engine.
        """
        if not self.data_files:
            raw = _read(self.path)
            if hashlib.sha256(raw).hexdigest() != self.sha256:
                raise InputError(f"{self.path}: changed while it was being built; build it again")
            (folder / NETWORK_FILE).write_bytes(raw)
            return
        names = {location: f"weights-{i}" for i, location in enumerate(self.data_files)}
        for location, file in self.data_files.items():
            (folder / names[location]).symlink_to(file.resolve())
        copy = onnx.ModelProto()
        copy.CopyFrom(self.proto)
        for tensor in tensors_of(copy):
            for entry in tensor.external_data:
                if tensor.data_location == onnx.TensorProto.EXTERNAL and entry.key == "location":
                    entry.value = names[entry.value]
        (folder / NETWORK_FILE).write_bytes(copy.SerializeToString(deterministic=True))


def tensors_of(message: Message) -> Iterator[onnx.TensorProto]:
    """Give every tensor that a message holds at any depth."""
    for field, value in message.ListFields():
        if field.message_type is None:
            continue
        for item in (value,) if isinstance(value, Message) else value:
            if isinstance(item, onnx.TensorProto):
                yield item
            else:
                yield from tensors_of(item)


def _read(path: Path) -> bytes:
    try:
        if not path.is_file():
            raise InputError(f"{path}: not a regular file; give an .onnx file")
        if (size := path.stat().st_size) > MAX_PROTOBUF_BYTES:
            raise InputError(
                f"{path}: {size} bytes, more than the {MAX_PROTOBUF_BYTES} that an ONNX file can have; "
                "export it with its weights as external data"
            )
        raw = path.read_bytes()
    except OSError as fault:
        raise InputError(f"{path}: cannot be read ({fault.strerror})") from None
    _refuse_pointer(path, raw)
    return raw


def _refuse_pointer(path: Path, begin: bytes) -> None:
    if begin.startswith(_LFS_POINTER):
        raise InputError(f"{path}: a Git LFS pointer, not the file itself; fetch it with: git lfs pull")


def _data_file(path: Path, tensor: onnx.TensorProto) -> tuple[str, Path]:
    """Return where a tensor's values lie, as it is written and as a file that holds them all."""
    entries = {entry.key: entry.value for entry in tensor.external_data}
    who, location = f"{path}: tensor {quoted(tensor.name)}", entries.get("location", "")
    normal = posixpath.normpath(location)
    if not location or "\0" in location or posixpath.isabs(location) or normal.split("/")[0] == "..":
        raise InputError(
            f"{who} has its values in {quoted(location)}; valid: a file in the folder of the ONNX file"
        )
    offset, length = (_number(who, key, entries.get(key)) for key in ("offset", "length"))
    end = (offset or 0) + (_bytes(tensor) if length is None else length)
    file = path.parent / normal
    try:
        if not file.is_file() or file.stat().st_size < end:
            if file.is_file():
                with file.open("rb") as content:
                    _refuse_pointer(file, content.read(len(_LFS_POINTER)))
            raise InputError(
                f"{file}: missing or shorter than the {end} bytes that tensor {quoted(tensor.name)} "
                "needs of it; keep the external data beside the .onnx file"
            )
    except OSError as fault:
        raise InputError(f"{file}: cannot be read ({fault.strerror})") from None
    return location, file


def _number(who: str, key: str, text: str | None) -> int | None:
    if text is None:
        return None
    if not (text.isascii() and text.isdecimal() and len(text) < 20):
        raise InputError(f"{who}: {key} of its external data is {quoted(text)}; valid: a number of bytes")
    return int(text)


def _bytes(tensor: onnx.TensorProto) -> int:
    """Return the bytes of a tensor's values, where it does not say so itself."""
    try:
        bits = ir.DataType(tensor.data_type).bitwidth
    except (ValueError, TypeError):  # a dtype that has no size: the library says what it makes of it
        return 0
    count = 1
    for dim in tensor.dims:
        count *= max(dim, 0)
    return (count * bits + 7) // 8


def _stamp(file: Path) -> _Stamp:
    try:
        found: Any = os.stat(file)
    except OSError as fault:
        raise InputError(f"{file}: cannot be read ({fault.strerror})") from None
    return found.st_dev, found.st_ino, found.st_size, found.st_mtime_ns
