"""Writing a folder of ours (a bundle, a set of engines) so that it appears whole or not at all.

A bundle is made in a hidden folder beside its destination, `.<name>.ttc-tmp-<pid>-<random>`, flushed to
disk, and renamed. An export that is killed leaves only such a folder; the next export to the same
destination sweeps those whose writer is gone. With `force` the old bundle and the new one swap their names in
one step, so that there is always one. Where the system has no such step, the old one is first renamed to
`.<name>.ttc-old-<pid>-<random>`; where a process died between the two renames, it is put back. A living
writer holds a lock (flock) on the hidden folder, which the system lets go with the process; process numbers
say nothing across containers that share a disk. Engines are written the same way.
"""

import contextlib
import dataclasses
import errno
import hashlib
import os
import re
import secrets
import shutil
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

from ttc.base.exchange import exchange
from ttc.base.folder_locks import lock_folder, unlock_folder
from ttc.errors import BundleError, InputError
from ttc.formats.manifest import FORMAT_NAME, MANIFEST_FILE, FileRecord

__all__ = [
    "BUNDLE",
    "FolderDraft",
    "FolderKind",
    "bundle_writer",
    "check_destination",
    "folder_writer",
    "is_hidden",
]


@dataclasses.dataclass(frozen=True, slots=True)
class FolderKind:
    """One kind of folder that is written whole.

    Attributes:
        noun: what messages call it, with its article.
        manifest_file: the file that makes a folder one of this kind; its JSON begins with `format`.
        own_files: what it may hold at its top level, beside hidden names of ours; replacing deletes nothing
            else.
        unlisted: those of them that the manifest does not list: itself, and what may come later.
    """

    noun: str
    manifest_file: str
    format: str
    own_files: re.Pattern[str]
    unlisted: frozenset[str] = frozenset()


BUNDLE = FolderKind(
    "a bundle",
    MANIFEST_FILE,
    FORMAT_NAME,
    re.compile(
        r"(bundle|verification)\.json(\.sig)?|tokenizer\.json|chat_template\.jinja|engines|.+\.onnx|"
        r".+\.onnx\.data"
    ),
    frozenset(
        (MANIFEST_FILE, f"{MANIFEST_FILE}.sig", "verification.json", "verification.json.sig", "engines")
    ),
)
# What a writer that was killed leaves: a folder, or a file that `write_whole` began.
_HIDDEN = re.compile(r"\..+\.ttc-(tmp|old)-\d+-[0-9a-f]{8}")
_MOST_TRIES = 20
_NO_SPACE = (errno.ENOSPC, errno.EDQUOT, errno.EFBIG)


class FolderDraft:
    """A folder being written: put its files under `path`, then `commit`."""

    def __init__(self, path: Path, destination: Path, force: bool, kind: FolderKind) -> None:
        self.path = path
        self._destination = destination
        self._force = force
        self._kind = kind

    def commit(self, manifest: Any, finish: Callable[[Path], None] | None = None) -> Path:
        """Write the manifest with the digests of all files and move the folder to its destination.

        Args:
            manifest: a frozen dataclass with a field `files` and a method `to_json`.
            finish: called with the folder when its manifest is written, to add a signature.

        Returns:
            The destination.

        Raises:
            InputError: something appeared at the destination meanwhile.
            BundleError: a file is a symbolic link.
        """
        files = [path for path in self._inside() if path.is_file()]
        records = {path.relative_to(self.path).as_posix(): _record(path) for path in files}
        return self.commit_as_is(dataclasses.replace(manifest, files=records).to_json(), finish)

    def commit_as_is(self, manifest: bytes, finish: Callable[[Path], None] | None = None) -> Path:
        """As `commit`, with the bytes of a manifest that has no digests of the files."""
        (self.path / self._kind.manifest_file).write_bytes(manifest)
        if finish is not None:
            finish(self.path)
        for path in (*self._inside(), self.path):
            _flush(path)
        while not self._publish():
            pass
        _flush(self._destination.parent)
        return self._destination

    def _inside(self) -> list[Path]:
        """Return everything in the folder, no symbolic link among it."""
        inside = sorted(self.path.rglob("*"))
        for path in inside:
            if path.is_symlink():
                raise BundleError(f"{path}: a symbolic link; {self._kind.noun} holds plain files only")
        return inside

    def _publish(self) -> bool:
        """Whether the folder is in its place now; if not, another came first and may be replaced."""
        held = lock_folder(self._destination)  # under its later name the old folder must not look forsaken
        try:
            return self._replace()
        finally:
            unlock_folder(held)

    def _replace(self) -> bool:
        before = _identity(self._destination)
        if before is None:
            return self._move()
        try:
            _refuse_existing(self._destination, self._force, self._kind)
        except (FileNotFoundError, InputError):
            if _identity(self._destination) == before:
                raise
            return False  # another writer's took its place while it was looked at
        try:
            exchanged = exchange(self.path, self._destination)
        except FileNotFoundError:
            return False
        if not exchanged:
            return self._replace_in_two_steps()
        try:
            # Under the draft's name now, and deleted with it. It must still be what was looked at.
            _refuse_existing(self.path, self._force, self._kind)
        except InputError:
            exchange(self.path, self._destination)
            raise
        return True

    def _replace_in_two_steps(self) -> bool:
        """Rename the old folder aside and the new one to its place; for systems that cannot swap names."""
        aside = _hidden(self._destination, "old")
        try:
            os.rename(self._destination, aside)
        except FileNotFoundError:
            return False
        try:
            done = self._move()
        except BaseException:
            if not os.path.lexists(self._destination):
                os.rename(aside, self._destination)
            raise
        shutil.rmtree(aside, ignore_errors=True)
        return done

    def _move(self) -> bool:
        """Whether the draft could be renamed to its destination, where nothing was."""
        try:
            # An empty folder at the destination would be replaced by the rename; anything else makes it fail.
            os.rename(self.path, self._destination)
        except OSError as fault:
            if self._force and fault.errno in (errno.ENOTEMPTY, errno.EEXIST):
                return False
            raise InputError(
                f"{self._destination}: appeared while {self._kind.noun} was being made ({fault.strerror}); "
                "nothing was replaced"
            ) from None
        return True


def is_hidden(name: str) -> bool:
    """Whether a name is one that a writer of ours gives to what it has not finished."""
    return _HIDDEN.fullmatch(name) is not None


def bundle_writer(
    destination: str | os.PathLike[str], force: bool = False
) -> contextlib.AbstractContextManager[FolderDraft]:
    """Open a `FolderDraft` for a bundle at `destination`; see `folder_writer`."""
    return folder_writer(destination, force, BUNDLE)


@contextlib.contextmanager
def folder_writer(
    destination: str | os.PathLike[str], force: bool, kind: FolderKind
) -> Iterator[FolderDraft]:
    """Open a `FolderDraft` for a folder of this kind; what was not committed is deleted on leaving.

    Args:
        destination: where the folder is to be.
        force: whether a folder of this kind, or an empty one, may be replaced.
        kind: what the folder is.

    Raises:
        InputError: the destination exists and may not be replaced, or cannot be written to.
        BundleError: the disk is full or fails, or somebody deleted the draft.
    """
    target = Path(os.path.abspath(destination))
    try:
        if not target.parent.is_dir():
            raise InputError(
                f"{target}: cannot be written: {target.parent} is not a folder; "
                "make it first, or choose another output"
            )
        _sweep(target)
        if os.path.lexists(target):
            _refuse_existing(target, force, kind)
        path, held = _make_hidden(target)
    except OSError as fault:
        raise InputError(f"{target}: cannot be written ({fault.strerror}); choose another output") from None
    try:
        yield FolderDraft(path, target, force, kind)
    except OSError as fault:
        if not path.is_dir() and isinstance(fault, FileNotFoundError):
            raise BundleError(
                f"{target}: cannot be written: {path} was deleted meanwhile; write it again"
            ) from fault
        # A descriptor's fault names no file; what names one elsewhere is the fault of what is read.
        if fault.errno in _NO_SPACE or fault.filename is None or _is_at(fault.filename, (path, target)):
            raise BundleError(
                f"{target}: cannot be written: {fault.strerror or fault}; nothing was left there"
            ) from fault
        raise
    finally:
        shutil.rmtree(path, ignore_errors=True)
        unlock_folder(held)


def check_destination(destination: str | os.PathLike[str], force: bool, kind: FolderKind) -> None:
    """Raise `InputError` where `folder_writer` would refuse a destination; nothing is written."""
    target = Path(os.path.abspath(destination))
    if not target.parent.is_dir():
        raise InputError(
            f"{target}: cannot be written: {target.parent} is not a folder; "
            "make it first, or choose another output"
        )
    if not os.access(target.parent, os.W_OK | os.X_OK):
        raise InputError(
            f"{target}: cannot be written: {target.parent} may not be written to; choose another output"
        )
    try:
        if os.path.lexists(target):
            _refuse_existing(target, force, kind)
    except OSError as fault:
        raise InputError(f"{target}: cannot be read ({fault.strerror}); choose another output") from None


def _refuse_existing(target: Path, force: bool, kind: FolderKind) -> None:
    """Return when `target`, which exists, may be replaced."""
    only = f"only {kind.noun} or an empty folder is replaced"
    if not force:
        raise InputError(f"{target}: exists already; choose another output, or replace it with --force")
    if target.is_symlink() or not target.is_dir():
        raise InputError(f"{target}: not a folder; {only}")
    names = sorted(path.name for path in target.iterdir())
    if not names:
        return
    foreign = [name for name in names if not kind.own_files.fullmatch(name) and not _HIDDEN.fullmatch(name)]
    for name in filter(_HIDDEN.fullmatch, names):
        if (target / name).is_dir() and not _is_forsaken(target / name):
            raise InputError(f"{target / name}: another process is writing here; wait for it, or end it")
    if foreign or not _is_ours(target, kind):
        what = (
            f"holds {foreign[0]!r}, which is no part of {kind.noun}"
            if foreign
            else f"has no {kind.manifest_file} of {kind.noun}"
        )
        raise InputError(f"{target}: {what}; {only}; choose another output, or remove it yourself")


def _is_at(name: object, places: tuple[Path, ...]) -> bool:
    """Whether a file that a fault names is one of these folders, in one, or the one that both are in."""
    if not isinstance(name, str | bytes):
        return False
    path = Path(os.fsdecode(name))
    return path == places[0].parent or any(place == path or place in path.parents for place in places)


def _identity(path: Path) -> tuple[int, int] | None:
    """Return what tells apart what stands at a path at two times; None where nothing does."""
    try:
        found = path.lstat()
    except FileNotFoundError:
        return None
    return found.st_dev, found.st_ino


def _identity_of(descriptor: int) -> tuple[int, int]:
    found = os.fstat(descriptor)
    return found.st_dev, found.st_ino


def _is_forsaken(folder: Path) -> bool:
    """Whether no living writer holds a hidden folder; true where there are no such locks."""
    held = lock_folder(folder)
    unlock_folder(held)
    return held is not None or os.name != "posix"


def _is_ours(folder: Path, kind: FolderKind) -> bool:
    """Whether the manifest begins as it should; a damaged folder of ours may be replaced too."""
    manifest = folder / kind.manifest_file
    if manifest.is_symlink() or not manifest.is_file():
        return False
    begin = re.compile(rb'\{\s*"format":\s*"' + re.escape(kind.format.encode()) + b'"')
    with manifest.open("rb") as file:
        return begin.match(file.read(256)) is not None


def _hidden(target: Path, kind: str) -> Path:
    return target.with_name(f".{target.name}.ttc-{kind}-{os.getpid()}-{secrets.token_hex(4)}")


def _make_hidden(target: Path) -> tuple[Path, int | None]:
    """Make a folder to write into, and lock it; return both.

    Another writer's sweep may take a folder that is there and not locked yet: then one more is made.
    """
    for _ in range(_MOST_TRIES if os.name == "posix" else 0):
        path = _hidden(target, "tmp")
        path.mkdir()
        held = lock_folder(path)
        if held is not None and _identity(path) == _identity_of(held):
            return path, held
        unlock_folder(held)
        with contextlib.suppress(OSError):
            path.rmdir()
    path = _hidden(target, "tmp")  # on a file system without locks, where nobody sweeps
    path.mkdir()
    return path, None


def _sweep(target: Path) -> None:
    """Delete what writers that are gone left beside `target`, but put an old bundle back where none is."""
    name = re.compile(rf"\.{re.escape(target.name)}\.ttc-(tmp|old)-\d+-[0-9a-f]{{8}}")
    for path in sorted(target.parent.iterdir()):
        match = name.fullmatch(path.name)
        held = lock_folder(path) if match else None
        if match is None or held is None:
            continue
        if match[1] == "old" and not os.path.lexists(target):
            os.rename(path, target)
        else:
            shutil.rmtree(path, ignore_errors=True)
        unlock_folder(held)


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
