"""Built graphs, kept by the digest of everything that makes them.

A folder per entry, named by its key, holding an `entry.json` with the digests of the other files. An entry
appears whole (written aside, renamed) and is read whole: one whose files do not have their digests is deleted
and counts as absent. Beyond the limit the entries that were used longest ago go.
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
    """One entry for `ttc cache ls`."""

    key: str
    size_bytes: int
    used: float
    about: Mapping[str, Any]


def default_cache_folder() -> Path:
    """`$TTC_CACHE_DIR`, or `ttc` in the user's cache folder."""
    if named := os.environ.get(CACHE_VARIABLE):
        return Path(named)
    return Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "ttc" / "engines"


def cache_key(parts: Mapping[str, Any]) -> str:
    """The key of what these parts make."""
    return hashlib.sha256(json.dumps(parts, sort_keys=True, separators=(",", ":")).encode()).hexdigest()


class EngineCache:
    """The cache in one folder; several processes may use it at once."""

    def __init__(self, folder: Path, limit_bytes: int = LIMIT_BYTES) -> None:
        self._folder, self._limit = folder, limit_bytes

    def get(self, key: str) -> dict[str, bytes] | None:
        """The files of an entry, verified; None where there is none."""
        place = self._folder / key
        try:
            digests = json.loads((place / _ENTRY_FILE).read_bytes())["files"]
            found = {name: (place / name).read_bytes() for name in digests}
        except (OSError, ValueError, KeyError, TypeError):
            return None
        if any(hashlib.sha256(content).hexdigest() != digests[name] for name, content in found.items()):
            shutil.rmtree(place, ignore_errors=True)
            return None
        with contextlib.suppress(OSError):
            os.utime(place)
        return found

    def put(self, key: str, content: Mapping[str, bytes], about: Mapping[str, Any]) -> None:
        """Keep these files. A cache that cannot be written to is an `InputError`."""
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
        """All entries, the one used last first."""
        found = []
        for place in self._folder.glob("[0-9a-f]*") if self._folder.is_dir() else ():
            try:
                about = json.loads((place / _ENTRY_FILE).read_bytes())["about"]
                size = sum(file.stat().st_size for file in place.iterdir())
                found.append(CacheEntry(place.name, size, place.stat().st_mtime, about))
            except (OSError, ValueError, KeyError, TypeError):
                continue  # being written or removed by another process
        return sorted(found, key=lambda entry: -entry.used)

    def clear(self) -> int:
        """Delete all entries; how many there were."""
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
