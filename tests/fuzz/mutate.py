"""Mutators: bytes, and JSON by its values. Those of JSON write the digest anew where a file has one, so that
what lies behind that check is reached too.
"""

import json
import random
from collections.abc import Callable, Sequence
from typing import Any

from ttc.formats.strictjson import json_digest

__all__ = ["mutate"]

_DIGESTS = ("manifest_sha256", "record_sha256")
_SIGNS = (
    b"\x00", b"\xff", b"\n", b"\x1b[2J", b'"', b"\\", b"{", b"[", b"-", b"9" * 30, b"\xed\xa0\x80", b"=",
)  # fmt: skip
_NUMBERS = (
    b"-1", b"1e999", b"1e-999", b"9" * 400, b"9" * 5000, b"0x10", b"nan", b"inf", b"1_0", b"0",
)  # fmt: skip
# Values that readers did not expect once, or that languages do not agree on.
_ODD: tuple[Any, ...] = (
    None, True, False, 0, -1, 1, 2**31, 2**63, -(2**63) - 1, 10**39, 0.5, -0.0, 1e308, 5e-324, float("inf"),
    float("nan"), "", "\n", "\x1b[2J", "\ud800", "../x", "/etc/passwd", "x" * 5000, "\u202e", "B*", "(a+)+$",
    [], {}, [[]], {"": {}}, [None] * 50,
)  # fmt: skip


def mutate(raw: bytes, others: Sequence[bytes], rng: random.Random) -> bytes:
    """Return a changed copy of a file; `others` are files of the same kind, to take pieces from."""
    ways: tuple[Callable[..., bytes], ...] = (
        _bytes,
        _bytes,
        _splice,
        _values,
        _values,
        _values,
        _raw_numbers,
    )
    for _ in range(rng.choice((1, 1, 1, 2, 3, 8))):
        raw = rng.choice(ways)(raw, others, rng)
    return raw[: 2**20]


def _bytes(raw: bytes, others: Sequence[bytes], rng: random.Random) -> bytes:
    data = bytearray(raw)
    at = rng.randrange(len(data) + 1)
    match rng.randrange(6):
        case 0 if data:
            data[at % len(data)] ^= 1 << rng.randrange(8)
        case 1:
            del data[at : at + rng.choice((1, 2, 7, 100))]
        case 2:
            data[at:at] = rng.choice(_SIGNS)
        case 3:
            data[at:at] = data[at : at + rng.randrange(1, 200)]
        case 4:
            del data[at:]
        case _:
            data[at:at] = rng.choice((b"[", b'{"a":', b"(", b"a.")) * rng.choice((5, 100, 3000))
    return bytes(data)


def _splice(raw: bytes, others: Sequence[bytes], rng: random.Random) -> bytes:
    other = rng.choice(others)
    return raw[: rng.randrange(len(raw) + 1)] + other[rng.randrange(len(other) + 1) :]


def _values(raw: bytes, others: Sequence[bytes], rng: random.Random) -> bytes:
    """Change one value of JSON; of lines of JSON, in one line."""
    lines = raw.split(b"\n") if raw.startswith(b"{") and b"}\n{" in raw else [raw]
    i = rng.randrange(len(lines))
    try:
        value = json.loads(lines[i])
    except (ValueError, RecursionError):
        return _bytes(raw, others, rng)
    places = list(_places(value))
    if not places:
        return _bytes(raw, others, rng)
    holder, key = rng.choice(places)
    match rng.randrange(5):
        case 0:
            del holder[key]
        case 1 if isinstance(holder, dict):
            holder[str(rng.choice(_ODD))] = holder.pop(key)
        case 2:
            deep: Any = rng.choice(_ODD)
            for _ in range(rng.choice((3, 70, 900))):
                deep = [deep] if rng.random() < 0.5 else {"a": deep}
            holder[key] = deep
        case _:
            holder[key] = rng.choice(_ODD)
    if isinstance(value, dict):
        for name in _DIGESTS:
            if name in value and rng.random() < 0.95:
                _digest(value, name)
    try:
        lines[i] = json.dumps(value).encode()
    except (ValueError, RecursionError):
        return _bytes(raw, others, rng)
    return b"\n".join(lines)


def _digest(value: dict[str, Any], name: str) -> None:
    try:
        value[name] = json_digest({key: item for key, item in value.items() if key != name})
    except (ValueError, RecursionError):
        return


def _raw_numbers(raw: bytes, others: Sequence[bytes], rng: random.Random) -> bytes:
    """Put another number in the place of one, as text: numbers that no program would write."""
    at = [i for i, byte in enumerate(raw) if 48 <= byte <= 57]
    if not at:
        return _bytes(raw, others, rng)
    i = rng.choice(at)
    end = i
    while end < len(raw) and 48 <= raw[end] <= 57:
        end += 1
    return raw[:i] + rng.choice(_NUMBERS) + raw[end:]


def _places(value: Any) -> list[tuple[Any, Any]]:
    """Return every (container, key) of a JSON value."""
    found: list[tuple[Any, Any]] = []
    level = [value]
    while level:
        item = level.pop()
        keys = (
            list(item) if isinstance(item, dict) else list(range(len(item))) if isinstance(item, list) else []
        )
        found += ((item, key) for key in keys)
        level += (item[key] for key in keys)
    return found
