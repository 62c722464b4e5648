"""Built graphs, kept by the digest of everything that makes them.

An entry is a folder, named by its key, with an `entry.json` that holds the digests of the other files. An
entry appears whole (it is written aside and renamed) and is read whole: one that is odd in any way, as when a
file does not have its digest, is deleted and counts as absent. Beyond the limit, the entries that were used
longest ago are deleted.

Whoever can write there could put in code that runs later. So the folder is its user's alone: a new one is
made with mode 0700, and one that belongs to another or that others may write to is not used. The digests find
accidents; they prove nothing about who wrote an entry, and a build that signs takes none.
"""

import contextlib
import hashlib
import json
import os
import re
import secrets
import shutil
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

from ttc.base.files import OpenFile, read_bounded
from ttc.base.folder_locks import lock_folder, unlock_folder
from ttc.base.ownership import why_foreign, why_foreign_folder
from ttc.base.user_cache import user_cache
from ttc.errors import BundleError, InputError
from ttc.formats.manifest import checked_path
from ttc.formats.strictjson import Fields, parse_json, quoted

__all__ = ["CACHE_VARIABLE", "CacheEntry", "EngineCache", "cache_key", "default_cache_folder"]

CACHE_VARIABLE: Final = "TTC_CACHE_DIR"
LIMIT_BYTES: Final = 4 * 2**30
_ENTRY_FILE = "entry.json"
_MOST_ENTRY_BYTES = 2**20
_KEY = re.compile(r"[0-9a-f]{64}")
_ASIDE = re.compile(r"\.[0-9a-f]{16}-\d+-[0-9a-f]{8}")


@dataclass(frozen=True, slots=True)
class CacheEntry:
    """One entry, as `ttc cache ls` shows it.

    Attributes:
        key: name of its folder.
        size_bytes: of all its files.
        used: when it was last used, in seconds since the epoch.
        about: what it was built from (the JSON object that was given to `put`).
    """

    key: str
    size_bytes: int
    used: float
    about: Mapping[str, Any]


def default_cache_folder() -> Path:
    """Return `$TTC_CACHE_DIR`, or the folder for it in the user's cache folder."""
    if named := os.environ.get(CACHE_VARIABLE):
        return Path(named)
    return user_cache("engines")


def cache_key(parts: Mapping[str, Any]) -> str:
    """Return the key of what these parts make."""
    return hashlib.sha256(json.dumps(parts, sort_keys=True, separators=(",", ":")).encode()).hexdigest()


class EngineCache:
    """The cache in one folder; several processes of one user may use it at once."""

    def __init__(self, folder: Path, limit_bytes: int = LIMIT_BYTES) -> None:
        self._folder, self._limit = folder, limit_bytes

    def take(self, key: str, folder: Path) -> tuple[str, ...]:
        """Copy the files of an entry into a folder, verified; return their names, none if there is no entry.

        A file is copied a piece at a time, since an engine may hold gigabytes of weights.

        Raises:
            OSError: the folder cannot be written to.
        """
        entry = self._folder / key
        if not os.path.lexists(entry) or why_foreign_folder(self._folder):
            return ()
        made: list[Path] = []
        try:
            digests, _ = _read_entry(entry)
            for name, digest in digests.items():
                made.append(folder / name)
                _copy(entry / name, made[-1], digest)
        except BundleError:
            for path in made:
                path.unlink(missing_ok=True)
            _delete(entry)
            return ()
        with contextlib.suppress(OSError):
            os.utime(entry)
        return tuple(digests)

    def put(self, key: str, content: Mapping[str, Path], about: Mapping[str, Any]) -> None:
        """Keep copies of these files.

        Args:
            key: from `cache_key`.
            content: name → each file.
            about: what they were built from, for `entries`.

        Raises:
            InputError: the cache cannot be written to, or others can write to it.
        """
        instead = f"name another folder in {CACHE_VARIABLE}, or build with --no-cache"
        aside = self._folder / f".{key[:16]}-{os.getpid()}-{secrets.token_hex(4)}"
        held = None
        try:
            self._folder.mkdir(mode=0o700, parents=True, exist_ok=True)
            if reason := why_foreign_folder(self._folder):
                raise InputError(f"{self._folder}: {reason}, so it is not used as a cache; {instead}")
            aside.mkdir(mode=0o700)
            held = lock_folder(aside)
            digests = {}
            for name, file in content.items():
                shutil.copyfile(file, aside / name)
                with (aside / name).open("rb") as data:
                    digests[name] = hashlib.file_digest(data, "sha256").hexdigest()
            (aside / _ENTRY_FILE).write_text(json.dumps({"files": digests, "about": dict(about)}))
            # An entry that another process published meanwhile is as good.
            with contextlib.suppress(OSError):
                os.rename(aside, self._folder / key)
        except OSError as fault:
            raise InputError(
                f"{self._folder}: the cache cannot be written to ({fault.strerror}); {instead}"
            ) from None
        finally:
            shutil.rmtree(aside, ignore_errors=True)
            unlock_folder(held)
        self._sweep()
        self._shrink(keep=key)

    def entries(self) -> list[CacheEntry]:
        """Return all entries that can be read, the one used last first."""
        found = []
        for folder in self._folders():
            try:
                _, about = _read_entry(folder)
                size = sum(file.lstat().st_size for file in folder.iterdir())
                found.append(CacheEntry(folder.name, size, folder.stat().st_mtime, about))
            except (OSError, BundleError):
                continue  # odd, or being written or removed by another process
        return sorted(found, key=lambda entry: -entry.used)

    def clear(self) -> int:
        """Delete all entries, those that cannot be read too; return how many there were."""
        folders = self._folders()
        for folder in folders:
            _delete(folder)
        self._sweep()
        return len(folders)

    def _folders(self) -> list[Path]:
        return [path for path in self._listed() if _KEY.fullmatch(path.name)]

    def _listed(self) -> list[Path]:
        try:
            return sorted(self._folder.iterdir())
        except OSError:
            return []

    def _sweep(self) -> None:
        """Delete what writers that are gone left."""
        for path in self._listed():
            held = lock_folder(path) if _ASIDE.fullmatch(path.name) else None
            if held is not None:
                _delete(path)
                unlock_folder(held)

    def _shrink(self, keep: str) -> None:
        total = 0
        for entry in self.entries():
            total += entry.size_bytes
            if total > self._limit and entry.key != keep:
                _delete(self._folder / entry.key)


def _read_entry(entry: Path) -> tuple[dict[str, str], dict[str, Any]]:
    """Return name → sha256 of an entry's files, and what it was built from; `BundleError` for what is odd."""
    try:
        found = entry.lstat()
    except OSError as fault:
        raise BundleError(f"{entry}: cannot be read ({fault.strerror})") from None
    if reason := why_foreign(found):
        raise BundleError(f"{entry}: {reason}")
    path = entry / _ENTRY_FILE
    raw = read_bounded(path, _MOST_ENTRY_BYTES, BundleError, links=False)
    fields = Fields(parse_json(raw, str(path), BundleError), str(path), BundleError)
    digests = dict(fields.each("files", Fields.string))
    about = dict(fields.each("about", Fields.take))
    fields.end()
    for name in digests:
        if len(checked_path(name, str(path)).parts) != 1 or name == _ENTRY_FILE:
            raise BundleError(f"{path}: {quoted(name)} is no name of a file beside it")
    return digests, about


def _copy(source: Path, target: Path, digest: str) -> None:
    """Copy a file; raise `BundleError` where it is no plain file or not the one with this digest."""
    try:
        file = OpenFile(source, BundleError, links=False)
    except OSError as fault:
        raise BundleError(f"{source}: cannot be read ({fault.strerror})") from None
    with file:
        if file.copy_to(target) != digest:
            raise BundleError(f"{source}: changed since it was put there")


def _delete(path: Path) -> None:
    if path.is_symlink() or not path.is_dir():
        with contextlib.suppress(OSError):
            path.unlink()
    else:
        shutil.rmtree(path, ignore_errors=True)
