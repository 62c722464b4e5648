"""Reading files that others may have put there, and writing files of ours that appear whole or not at all."""

import contextlib
import hashlib
import os
import re
import secrets
import stat
import threading
import time
import weakref
from collections.abc import Iterator
from pathlib import Path
from typing import Self

from ttc.errors import InputError, TtcError

__all__ = ["OpenFile", "check_writable", "read_bounded", "write_whole"]

# Where a system has none of these, what they keep away is checked by name only.
_NO_LINK, _NO_WAITING = getattr(os, "O_NOFOLLOW", 0), getattr(os, "O_NONBLOCK", 0)
_BINARY = getattr(os, "O_BINARY", 0)
_PIECE_BYTES = 2**20
_HOUR = 3600.0


class OpenFile:
    """A regular file that is held open: whatever is put in its place later, this one is read.

    It is read into memory of ours, not mapped: where a mapped file is cut short, touching it kills the
    process, and here it is an error. Reading is thread-safe.

    Attributes:
        path: of the file.
        size_bytes: when it was opened.
        mtime_ns: when it was last written to, likewise.
    """

    def __init__(self, path: Path, error: type[TtcError], *, links: bool = True) -> None:
        """Open the file. A pipe or a device is refused without waiting for it.

        Args:
            path: of the file.
            error: the class of every refusal.
            links: whether `path` may be a symbolic link.

        Raises:
            OSError: it cannot be opened.
        """
        if not links and path.is_symlink():
            raise error(f"{path}: a symbolic link; a plain file is due")
        self._descriptor = os.open(path, os.O_RDONLY | _NO_WAITING | _BINARY | (0 if links else _NO_LINK))
        self.close = weakref.finalize(self, os.close, self._descriptor)
        found = os.fstat(self._descriptor)
        if not stat.S_ISREG(found.st_mode):
            self.close()
            raise error(f"{path}: not a regular file")
        self.path, self._error = path, error
        self.size_bytes, self.mtime_ns = found.st_size, found.st_mtime_ns
        self._lock = threading.Lock()

    def fill(self, target: memoryview, begin: int) -> None:
        """Fill `target`, which is of bytes, with what the file has from byte `begin` on.

        Raises:
            TtcError: the file ends before that, or cannot be read. Its class is `error`.
        """
        done = 0
        while done < len(target):
            try:
                count = self._read_into(target[done:], begin + done)
            except OSError as fault:
                raise self._error(f"{self.path}: cannot be read ({fault.strerror})") from None
            if not count:
                raise self._error(
                    f"{self.path}: ends at byte {begin + done}, and had {self.size_bytes} bytes when it was "
                    "opened; it was cut short meanwhile"
                )
            done += count

    def _read_into(self, target: memoryview, begin: int) -> int:
        if hasattr(os, "preadv"):
            return os.preadv(self._descriptor, [target], begin)
        with self._lock:
            os.lseek(self._descriptor, begin, os.SEEK_SET)
            piece = os.read(self._descriptor, min(len(target), _PIECE_BYTES))
        target[: len(piece)] = piece
        return len(piece)

    def read(self, limit: int) -> bytes:
        """Return all of it; more than `limit` bytes are refused."""
        if self.size_bytes > limit:
            raise self._error(
                f"{self.path}: {self.size_bytes} bytes, more than the {limit} this kind of file may have"
            )
        content = bytearray(self.size_bytes)
        self.fill(memoryview(content), 0)
        return bytes(content)

    def sha256(self) -> str:
        """Return the digest of all of it."""
        digest = hashlib.sha256()
        for piece in self._pieces():
            digest.update(piece)
        return digest.hexdigest()

    def copy_to(self, target: Path) -> str:
        """Write all of it into a new file, a piece at a time; return the digest of what was written.

        Raises:
            OSError: the new file cannot be written.
        """
        digest = hashlib.sha256()
        with target.open("xb") as file:
            for piece in self._pieces():
                digest.update(piece)
                file.write(piece)
        return digest.hexdigest()

    def _pieces(self) -> Iterator[memoryview]:
        """Yield the content in memory that the next piece overwrites."""
        memory = memoryview(bytearray(min(self.size_bytes, _PIECE_BYTES)))
        for begin in range(0, self.size_bytes, _PIECE_BYTES):
            piece = memory[: self.size_bytes - begin]
            self.fill(piece, begin)
            yield piece

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()


def read_bounded(path: Path, limit: int, error: type[TtcError], *, links: bool = True) -> bytes:
    """Return the content of the regular file `path`; more than `limit` bytes are refused before reading.

    Args:
        path: of the file.
        limit: most bytes of this kind of file.
        error: the class of every refusal.
        links: whether `path` may be a symbolic link.
    """
    try:
        with OpenFile(path, error, links=links) as file:
            return file.read(limit)
    except OSError as fault:
        raise error(f"{path}: cannot be read ({fault.strerror or fault})") from None


def check_writable(path: Path) -> None:
    """Return when `write_whole` can begin a file; to be asked before the work whose result it holds.

    Raises:
        InputError: its folder is not there or may not be written to, or it is a folder.
    """
    target = Path(os.path.realpath(path))
    if target.is_dir():
        raise InputError(f"{path}: a folder; name a file in it")
    if target.exists() and not target.is_file():
        return  # a pipe or a device, which is written to directly
    if not target.parent.is_dir():
        raise InputError(f"{path}: its folder does not exist; make it, or choose another")
    if not os.access(target.parent, os.W_OK | os.X_OK):
        raise InputError(f"{path}: its folder may not be written to; choose another")


def write_whole(path: str | os.PathLike[str], content: bytes | str) -> None:
    """Write a file so that it is there whole, or what was there before still is.

    It is written aside (`.<name>.ttc-tmp-<pid>-<random>`), flushed to disk and renamed. A link is followed.
    What is no regular file, as /dev/stdout, is written to directly.

    Args:
        path: of the file; its folder must exist.
        content: text is written as UTF-8.

    Raises:
        InputError: it cannot be written.
    """
    data = content.encode() if isinstance(content, str) else content
    target = Path(os.path.realpath(path))
    try:
        if target.exists() and not target.is_file():
            target.write_bytes(data)
            return
        aside = target.with_name(f".{target.name}.ttc-tmp-{os.getpid()}-{secrets.token_hex(4)}")
        try:
            with aside.open("xb") as file:
                file.write(data)
                file.flush()
                os.fsync(file.fileno())
            if target.exists():
                with contextlib.suppress(OSError):  # its mode, where the file system has modes
                    aside.chmod(stat.S_IMODE(target.stat().st_mode))
            os.replace(aside, target)
        finally:
            aside.unlink(missing_ok=True)
        _sweep(target)
    except OSError as fault:
        raise InputError(
            f"{os.fspath(path)}: cannot be written ({fault.strerror or fault}); what was there is as it was"
        ) from None


def _sweep(target: Path) -> None:
    """Delete what writers of this file left that were killed an hour ago or longer."""
    name = re.compile(rf"\.{re.escape(target.name)}\.ttc-tmp-\d+-[0-9a-f]{{8}}")
    with contextlib.suppress(OSError):
        for path in target.parent.iterdir():
            if name.fullmatch(path.name) and path.is_file() and time.time() - path.stat().st_mtime > _HOUR:
                path.unlink()
