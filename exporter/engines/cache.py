"""Built graphs, kept by the digest of everything that makes them.

An entry is a folder, named by its key, with an `entry.json` that holds the digests of the other files. An
entry appears whole (it is written aside and renamed) and is read whole: one whose files do not have their
digests is deleted and counts as absent. Beyond the limit, the entries that were used longest ago are deleted.
"""

import contextlib
import hashlib
import json
import os
import secrets
import shutil
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

from ttc.errors import InputError

__all__ = ["CACHE_VARIABLE", "CacheEntry", "EngineCache", "cache_key", "default_cache_folder"]

CACHE_VARIABLE: Final = "TTC_CACHE_DIR"
LIMIT_BYTES: Final = 4 * 2**30
_ENTRY_FILE = "entry.json"


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
    return Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "ttc" / "engines"


def cache_key(parts: Mapping[str, Any]) -> str:
    """Return the key of what these parts make."""
    return hashlib.sha256(json.dumps(parts, sort_keys=True, separators=(",", ":")).encode()).hexdigest()


class EngineCache:
    """The cache in one folder; several processes may use it at once."""

    def __init__(self, folder: Path, limit_bytes: int = LIMIT_BYTES) -> None:
        self._folder, self._limit = folder, limit_bytes

    def get(self, key: str) -> dict[str, bytes] | None:
        """Return the files of an entry, verified; None where there is none."""
        entry = self._folder / key
        try:
            digests = json.loads((entry / _ENTRY_FILE).read_bytes())["files"]
            found = {name: (entry / name).read_bytes() for name in digests}
        except (OSError, ValueError, KeyError, TypeError):
            return None
        if any(hashlib.sha256(content).hexdigest() != digests[name] for name, content in found.items()):
            shutil.rmtree(entry, ignore_errors=True)
            return None
        with contextlib.suppress(OSError):
            os.utime(entry)
        return found

    def put(self, key: str, content: Mapping[str, bytes], about: Mapping[str, Any]) -> None:
        """Keep these files.

        Args:
            key: from `cache_key`.
            content: name → bytes of each file.
            about: what they were built from, for `entries`.

        Raises:
            InputError: the cache cannot be written to.
        """
        aside = self._folder / f".{key[:16]}-{os.getpid()}-{secrets.token_hex(4)}"
        try:
            aside.mkdir(parents=True)
            for name, data in content.items():
                (aside / name).write_bytes(data)
            digests = {name: hashlib.sha256(data).hexdigest() for name, data in content.items()}
            (aside / _ENTRY_FILE).write_text(json.dumps({"files": digests, "about": dict(about)}))
            # An entry that another process published meanwhile is as good.
            with contextlib.suppress(OSError):
                os.rename(aside, self._folder / key)
        except OSError as fault:
            raise InputError(
                f"{self._folder}: the cache cannot be written to ({fault.strerror}); "
                f"name another folder in {CACHE_VARIABLE}, or build with --no-cache"
            ) from None
        finally:
            shutil.rmtree(aside, ignore_errors=True)
        self._shrink(keep=key)

    def entries(self) -> list[CacheEntry]:
        """Return all entries, the one used last first."""
        found = []
        for folder in self._folder.glob("[0-9a-f]*") if self._folder.is_dir() else ():
            try:
                about = json.loads((folder / _ENTRY_FILE).read_bytes())["about"]
                size = sum(file.stat().st_size for file in folder.iterdir())
                found.append(CacheEntry(folder.name, size, folder.stat().st_mtime, about))
            except (OSError, ValueError, KeyError, TypeError):
                continue  # being written or removed by another process
        return sorted(found, key=lambda entry: -entry.used)

    def clear(self) -> int:
        """Delete all entries; return how many there were."""
        entries = self.entries()
        for entry in entries:
            shutil.rmtree(self._folder / entry.key, ignore_errors=True)
        return len(entries)

    def _shrink(self, keep: str) -> None:
        total = 0
        for entry in self.entries():
            total += entry.size_bytes
            if total > self._limit and entry.key != keep:
                shutil.rmtree(self._folder / entry.key, ignore_errors=True)
