"""The files that a bundle's manifest lists: reached without passing a link, and as they were exported."""

import stat
from pathlib import Path

from ttc.base.files import OpenFile
from ttc.errors import BundleError, DigestError
from ttc.formats.manifest import FileRecord, checked_path

__all__ = ["compare", "inside", "verify"]


def inside(folder: Path, name: str, where: str) -> Path:
    """Return the regular file `name` in `folder`, reached without passing a link."""
    path = folder
    for part in checked_path(name, where).parts:
        path = path / part
        try:
            mode = path.lstat().st_mode
        except OSError as fault:
            raise BundleError(f"{path}: missing or unreadable ({fault.strerror}); export again") from None
        if stat.S_ISLNK(mode):
            raise BundleError(f"{path}: a symbolic link; a bundle holds plain files only")
    if not stat.S_ISREG(mode):
        raise BundleError(f"{path}: not a regular file")
    return path


def verify(file: OpenFile, record: FileRecord) -> None:
    """Raise `DigestError` unless an open file is the one that was exported; its size is looked at first."""
    compare(file.path, record, file.size_bytes, None)
    compare(file.path, record, file.size_bytes, file.sha256())


def compare(path: Path, record: FileRecord, size: int, digest: str | None) -> None:
    """Raise `DigestError` unless a file has the size and the digest that it was exported with."""
    if size != record.size_bytes:
        raise DigestError(f"{path}: {size} bytes, but {record.size_bytes} when it was exported; export again")
    if digest is not None and digest != record.sha256:
        raise DigestError(
            f"{path}: its content is not what was exported (sha256 {digest[:16]}…, "
            f"due {record.sha256[:16]}…); export again"
        )
