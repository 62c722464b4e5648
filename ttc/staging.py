"""Writing a bundle so that it appears whole or not at all.

The bundle is made in a hidden folder beside its destination, `.<name>.ttc-tmp-<pid>-<random>`, flushed to
disk, and renamed. An export that is killed leaves only such a folder; the next export to the same
destination sweeps those of dead processes. With `force` the old bundle is first renamed to
`.<name>.ttc-old-<pid>-<random>`; where a process died between the two renames, the old bundle is put back.
"""

import contextlib
import dataclasses
import errno
import hashlib
import os
import re
import secrets
import shutil
from collections.abc import Iterator
from pathlib import Path

from ttc.errors import BundleError, InputError
from ttc.manifest import FORMAT_NAME, MANIFEST_FILE, FileRecord, Manifest

__all__ = ["Staging", "bundle_writer"]

# What a bundle may hold at its top level: --force deletes nothing else.
_OWN_FILES = re.compile(r"bundle\.json|tokenizer\.json|engines|.+\.onnx|.+\.onnx\.data")
_FORMAT_KEY = re.compile(rb'\{\s*"format":\s*"' + FORMAT_NAME.encode() + b'"')
_NO_SPACE = (errno.ENOSPC, errno.EDQUOT, errno.EFBIG)


class Staging:
    """A bundle being written: put its files under `path`, then `commit`."""

    def __init__(self, path: Path, destination: Path, force: bool) -> None:
        self.path = path
        self._destination = destination
        self._force = force

    def commit(self, manifest: Manifest) -> Path:
        """Digest all files under `path`, write the manifest with them, move the bundle to its destination
        and return that.

        Raises `InputError` when something appeared at the destination meanwhile.
        """
        inside = sorted(self.path.rglob("*"))
        for path in inside:
            if path.is_symlink():
                raise BundleError(f"{path}: a symbolic link; a bundle holds plain files only")
        files = [path for path in inside if path.is_file()]
        records = {path.relative_to(self.path).as_posix(): _record(path) for path in files}
        written = self.path / MANIFEST_FILE
        written.write_bytes(dataclasses.replace(manifest, files=records).to_json())
        for path in (*inside, written, self.path):
            _flush(path)
        self._publish()
        _flush(self._destination.parent)
        return self._destination

    def _publish(self) -> None:
        aside = None
        if os.path.lexists(self._destination):
            _refuse_existing(self._destination, self._force)
            aside = _hidden(self._destination, "old")
            os.rename(self._destination, aside)
        try:
            # An empty folder at the destination would be replaced by the rename; anything else makes it fail.
            os.rename(self.path, self._destination)
        except BaseException as fault:
            if aside is not None and not os.path.lexists(self._destination):
                os.rename(aside, self._destination)
            if not isinstance(fault, OSError):
                raise
            raise InputError(
                f"{self._destination}: appeared while the bundle was being made ({fault.strerror}); "
                "nothing was replaced"
            ) from None
        if aside is not None:
            shutil.rmtree(aside, ignore_errors=True)


@contextlib.contextmanager
def bundle_writer(destination: str | os.PathLike[str], force: bool = False) -> Iterator[Staging]:
    """A `Staging` for a bundle at `destination`; whatever was not committed is deleted on leaving.

    Raises `InputError` when the destination exists (with `force`: when it is neither a bundle nor an empty
    folder) or cannot be written to, `BundleError` when the disk is full.
    """
    target = Path(os.path.abspath(destination))
    if not target.parent.is_dir():
        raise InputError(
            f"{target}: cannot be written: {target.parent} is not a folder; "
            "make it first, or choose another output"
        )
    try:
        _sweep(target)
        if os.path.lexists(target):
            _refuse_existing(target, force)
        path = _hidden(target, "tmp")
        path.mkdir()
    except OSError as fault:
        raise InputError(f"{target}: cannot be written ({fault.strerror}); choose another output") from None
    try:
        yield Staging(path, target, force)
    except OSError as fault:
        if fault.errno in _NO_SPACE:
            raise BundleError(
                f"{target}: cannot be written: {fault.strerror}; nothing was left there"
            ) from fault
        raise
    finally:
        shutil.rmtree(path, ignore_errors=True)


def _refuse_existing(target: Path, force: bool) -> None:
    """Return when `target`, which exists, may be replaced."""
    if not force:
        raise InputError(f"{target}: exists already; choose another output, or replace it with --force")
    if target.is_symlink() or not target.is_dir():
        raise InputError(f"{target}: not a folder; --force replaces only a bundle or an empty folder")
    names = sorted(path.name for path in target.iterdir())
    if not names:
        return
    foreign = [name for name in names if not _OWN_FILES.fullmatch(name)]
    if foreign or not _is_bundle(target):
        what = (
            f"holds {foreign[0]!r}, which is no part of a bundle"
            if foreign
            else f"has no {MANIFEST_FILE} of a bundle"
        )
        raise InputError(
            f"{target}: {what}; --force replaces only a bundle or an empty folder; remove it yourself"
        )


def _is_bundle(folder: Path) -> bool:
    """Whether the manifest begins as a bundle's does; a damaged bundle may be replaced too."""
    manifest = folder / MANIFEST_FILE
    if manifest.is_symlink() or not manifest.is_file():
        return False
    with manifest.open("rb") as file:
        return _FORMAT_KEY.match(file.read(256)) is not None


def _hidden(target: Path, kind: str) -> Path:
    return target.with_name(f".{target.name}.ttc-{kind}-{os.getpid()}-{secrets.token_hex(4)}")


def _sweep(target: Path) -> None:
    """Delete what dead processes left beside `target`, but put an old bundle back where none is."""
    name = re.compile(rf"\.{re.escape(target.name)}\.ttc-(tmp|old)-(\d+)-[0-9a-f]{{8}}")
    for path in sorted(target.parent.iterdir()):
        match = name.fullmatch(path.name)
        if match is None or _alive(int(match[2])):
            continue
        if match[1] == "old" and not os.path.lexists(target):
            os.rename(path, target)
        else:
            shutil.rmtree(path, ignore_errors=True)


def _alive(pid: int) -> bool:
    """Whether a process `pid` exists; taken for granted where asking would be a signal (Windows)."""
    if os.name != "posix":
        return True
    try:
        os.kill(pid, 0)
    except (ProcessLookupError, OverflowError):
        return False
    except PermissionError:
        return True
    return True


def _record(path: Path) -> FileRecord:
    with path.open("rb") as file:
        return FileRecord(hashlib.file_digest(file, "sha256").hexdigest(), path.stat().st_size)


def _flush(path: Path) -> None:
    """Make the file or folder `path` survive a power cut."""
    if os.name != "posix" and path.is_dir():
        return  # folders cannot be opened there
    descriptor = os.open(path, os.O_RDONLY if os.name == "posix" else os.O_RDWR)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
