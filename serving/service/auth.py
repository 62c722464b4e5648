"""Who may ask: keys from a file, compared in constant time."""

import hashlib
import hmac
import stat
from collections.abc import Mapping
from pathlib import Path

from ttc.base.files import read_bounded
from ttc.errors import InputError
from ttc.serving.wire.errors import Unauthorized

__all__ = ["ANYBODY", "Keys", "read_keys"]

# The owner of all requests where no keys are asked for.
ANYBODY = "anybody"
_LEAST_CHARACTERS = 8
_MAX_BYTES = 1 << 20


class Keys:
    """The keys that may ask; `owner` says whose a request is. Without keys everybody may."""

    def __init__(self, keys: Mapping[str, str] | None) -> None:
        """keys: owner → key; None lets everybody ask."""
        self._digests = None if keys is None else {owner: _digest(key) for owner, key in keys.items()}

    @property
    def owners(self) -> int:
        """How many different owners there are."""
        return 1 if self._digests is None else len(self._digests)

    def owner(self, authorization: str | None) -> str:
        """Return the owner of a request with this Authorization header.

        Raises:
            Unauthorized: no key, or a wrong one.
        """
        if self._digests is None:
            return ANYBODY
        scheme, _, key = (authorization or "").partition(" ")
        given, found = _digest(key.strip()), None
        # All are compared, so that the time says nothing.
        for owner, digest in self._digests.items():
            if hmac.compare_digest(digest, given):
                found = owner
        if scheme.lower() != "bearer" or found is None:
            raise Unauthorized("no valid key; send the header Authorization: Bearer KEY")
        return found


def read_keys(path: Path) -> dict[str, str]:
    """Return owner → key of a key file: a line `KEY` or `OWNER KEY` for each; # begins a comment.

    Raises:
        InputError: no such file, one that others can read, or a line that is none.
    """
    try:
        mode = path.stat().st_mode
        if not stat.S_ISREG(mode):
            raise InputError(f"{path}: not a file")
        if mode & (stat.S_IRWXG | stat.S_IRWXO):
            raise InputError(f"{path}: others may read or write these keys; run: chmod 600 {path}")
        lines = read_bounded(path, _MAX_BYTES, InputError).decode().splitlines()
    except OSError as fault:
        raise InputError(f"{path}: cannot be read ({fault.strerror})") from None
    except UnicodeDecodeError:
        raise InputError(f"{path}: not UTF-8 text") from None
    keys: dict[str, str] = {}
    for number, line in enumerate(lines, 1):
        words = line.split("#", 1)[0].split()
        if not words:
            continue
        owner = words[0] if len(words) == 2 else f"key{len(keys) + 1}"
        if len(words) > 2 or len(words[-1]) < _LEAST_CHARACTERS:
            raise InputError(
                f"{path}: line {number} is none; valid: KEY or OWNER KEY, "
                f"a key of at least {_LEAST_CHARACTERS} characters"
            )
        if owner in keys or words[-1] in keys.values():
            raise InputError(f"{path}: line {number} repeats an owner or a key")
        keys[owner] = words[-1]
    if not keys:
        raise InputError(f"{path}: holds no keys, so nobody could ask")
    return keys


def _digest(key: str) -> bytes:
    return hashlib.sha256(key.encode("utf-8", "surrogateescape")).digest()
