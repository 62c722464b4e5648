"""Reading TOML that somebody else wrote: bounded, and with one error for whatever is wrong."""

import tomllib
from pathlib import Path
from typing import Any

from ttc.base.files import read_bounded
from ttc.base.quoting import escaped
from ttc.errors import TtcError

__all__ = ["read_toml"]

# What we read is settings, a page of them.
_MOST_BYTES, _MOST_DEPTH, _MOST_DIGITS, _MOST_DOTS = 2**16, 16, 40, 100


def read_toml(path: Path, error: type[TtcError], what: str = "") -> dict[str, Any]:
    """Return the table in the regular file `path`.

    Args:
        path: of the file.
        error: the class of every refusal.
        what: what messages call the file; by default its path.

    Raises:
        TtcError: it cannot be read, is no TOML, is nested deeply, or holds an integer beyond what we compute
            with. Its class is `error`.
    """
    what = what or str(path)
    raw = read_bounded(path, _MOST_BYTES, error)
    # The time that a dotted key takes grows with the square of its parts.
    if any(line.count(b".") > _MOST_DOTS for line in raw.splitlines()):
        raise error(f"{what}: a line with more than {_MOST_DOTS} dots")
    try:
        table = tomllib.loads(raw.decode())
    except UnicodeDecodeError as fault:
        raise error(f"{what}: not UTF-8 text (byte {fault.start})") from None
    except RecursionError:
        raise error(f"{what}: nested too deeply") from None
    except ValueError as fault:  # TOMLDecodeError, and an integer of thousands of digits
        raise error(f"{what}: not TOML ({escaped(str(fault))[:200]})") from None
    _check(table, what, error)
    return table


def _check(table: object, what: str, error: type[TtcError]) -> None:
    level, depth = [table], 0
    while level:
        if depth > _MOST_DEPTH:
            raise error(f"{what}: nested too deeply, more than {_MOST_DEPTH} levels")
        inside: list[object] = []
        for item in level:
            if isinstance(item, dict):
                inside += item.values()
            elif isinstance(item, list):
                inside += item
            elif isinstance(item, int) and abs(item) >= 10**_MOST_DIGITS:
                raise error(f"{what}: an integer has more than {_MOST_DIGITS} digits")
        level, depth = inside, depth + 1
