"""Reading JSON that somebody else wrote: bounded, no duplicate keys, every value's type checked.

`parse_json` and `read_json` turn bytes into Python values and never raise anything but the error class they
are given. What would take far more memory than its bytes is refused before it is parsed; so are, after that,
deep nesting, numbers beyond what we compute with, and halves of surrogate pairs, which are no text. `Fields`
then takes an object apart key by key; each refusal names the object, the key and the value. `json_digest` is
how our own files say that they are whole.
"""

import hashlib
import json
import math
import re
from collections import Counter
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import NoReturn, TypeVar

from ttc.base.files import read_bounded
from ttc.base.quoting import quoted
from ttc.errors import TtcError

__all__ = ["Fields", "json_digest", "parse_json", "quoted", "read_json"]

_Item = TypeVar("_Item")

_MOST_DEPTH, _MOST_DIGITS, _MOST_SHOWN = 64, 40, 100
# What CPython takes for an object, a list, a pair of an object and an item of a list, in bytes.
_OBJECT_BYTES, _LIST_BYTES, _PAIR_BYTES, _ITEM_BYTES = 72, 88, 240, 64
# A file's values may take so many times its bytes; and what they may take in any case.
_MOST_TIMES, _ALLOWED_BYTES = 16, 64 * 2**20
# The escape of half a surrogate pair.
_HALF = re.compile(rb"\\u[dD][89a-fA-F]")


def parse_json(raw: bytes, where: str, error: type[TtcError], allow_infinity: bool = False) -> object:
    """Return the value written in `raw`, UTF-8 text.

    Args:
        raw: the bytes of a file.
        where: what messages call it.
        error: the class of every error raised here.
        allow_infinity: whether NaN and infinities pass, which JSON does not know.
    """

    def pairs(items: list[tuple[str, object]]) -> dict[str, object]:
        found = dict(items)
        if len(found) != len(items):
            counts = Counter(name for name, _ in items)
            twice = next(name for name in counts if counts[name] > 1)
            raise error(f"{where}: the key {quoted(twice)} stands there twice")
        return found

    def constant(name: str) -> float:
        if not allow_infinity:
            shown = name if len(name) <= _MOST_DIGITS else f"{name[:_MOST_DIGITS]}…"
            raise error(f"{where}: {shown} is not a number this file may hold")
        return float(name)

    def integer(digits: str) -> int:
        if len(digits) > _MOST_DIGITS:
            raise error(f"{where}: {quoted(digits)}: numbers have at most {_MOST_DIGITS} digits here")
        return int(digits)

    def decimal(digits: str) -> float:
        value = float(digits)
        return value if math.isfinite(value) else constant(digits)

    _check_size(raw, where, error)
    try:
        value = json.loads(
            raw.decode("utf-8"),
            object_pairs_hook=pairs,
            parse_constant=constant,
            parse_int=integer,
            parse_float=decimal,
        )
    except UnicodeDecodeError as fault:
        raise error(f"{where}: not UTF-8 text (byte {fault.start})") from None
    except RecursionError:
        raise error(f"{where}: JSON nested too deeply") from None
    except ValueError as fault:
        raise error(f"{where}: not valid JSON ({fault})") from None
    _check_tree(value, raw, where, error)
    return value


def _check_size(raw: bytes, where: str, error: type[TtcError]) -> None:
    """Refuse what would become far more than it is in the file. Signs in texts count, too."""
    pairs, commas = raw.count(b":"), raw.count(b",")
    need = _OBJECT_BYTES * raw.count(b"{") + _LIST_BYTES * raw.count(b"[")
    need += _PAIR_BYTES * pairs + _ITEM_BYTES * max(0, commas - pairs)
    if need > max(_ALLOWED_BYTES, _MOST_TIMES * len(raw)):
        raise error(
            f"{where}: {len(raw)} bytes that hold so many values that they would take about {need >> 20} MiB "
            "of memory; no file of this kind does"
        )


def _check_tree(value: object, raw: bytes, where: str, error: type[TtcError]) -> None:
    """Refuse deep nesting, and texts with half a surrogate pair in them."""
    halves = _HALF.search(raw) is not None
    if not halves and raw.count(b"[") + raw.count(b"{") <= _MOST_DEPTH:
        return
    level, depth = [value], 0
    while level:
        if depth >= _MOST_DEPTH and any(isinstance(item, dict | list) for item in level):
            raise error(f"{where}: JSON nested too deeply, more than {_MOST_DEPTH} levels")
        inside: list[object] = []
        for item in level:
            if isinstance(item, dict):
                inside += item.values()
                if halves:
                    inside += item.keys()
            elif isinstance(item, list):
                inside += item
            elif halves and isinstance(item, str) and any("\ud800" <= sign <= "\udfff" for sign in item):
                raise error(f"{where}: the text {quoted(item)} holds half of a surrogate pair")
        level = inside if halves else [item for item in inside if isinstance(item, dict | list)]
        depth += 1


def read_json(path: Path, limit: int, error: type[TtcError], allow_infinity: bool = False) -> object:
    """Return the value in the regular file `path`; more than `limit` bytes are refused before reading."""
    return parse_json(read_bounded(path, limit, error), str(path), error, allow_infinity)


def json_digest(content: Mapping[str, object]) -> str:
    """Return the sha256 of an object, written with sorted keys and without white space."""
    text = json.dumps(content, sort_keys=True, separators=(",", ":"))
    return hashlib.sha256(text.encode()).hexdigest()


class Fields:
    """One JSON object being taken apart: `take` what is known, then `end` refuses what is left.

    `where` is how messages call the object ("bundle.json: weights"), `error` the class they are raised as.
    """

    __slots__ = ("_error", "_left", "_where")

    def __init__(self, value: object, where: str, error: type[TtcError]) -> None:
        if not isinstance(value, dict):
            raise error(f"{where}: a JSON object is due here, found {quoted(value)}")
        self._left: dict[str, object] = dict(value)
        self._where = where
        self._error = error

    def refuse(self, key: str, value: object, expected: str) -> NoReturn:
        """Raise the error that says that `key` holds `value` where something else is expected."""
        raise self._error(f"{self._where}: {quoted(key)} is {quoted(value)}, {expected} is due")

    def take(self, key: str) -> object:
        """Take the raw value of `key`, which must be there."""
        if key not in self._left:
            raise self._error(f"{self._where}: the key {quoted(key)} is missing")
        return self._left.pop(key)

    def string(self, key: str) -> str:
        """Take a non-empty string."""
        value = self.take(key)
        if not isinstance(value, str) or not value:
            self.refuse(key, value, "a non-empty string")
        return value

    def optional_string(self, key: str) -> str:
        """Take a non-empty string; empty where the key is missing."""
        return self.string(key) if key in self._left else ""

    def boolean(self, key: str) -> bool:
        """Take true or false."""
        value = self.take(key)
        if not isinstance(value, bool):
            self.refuse(key, value, "true or false")
        return value

    def integer(self, key: str, low: int = 0, high: int = 2**63 - 1) -> int:
        """Take an integer in [low, high]; true, false and 1.0 are none."""
        value = self.take(key)
        if type(value) is not int or not low <= value <= high:
            self.refuse(key, value, f"an integer from {low} to {high}")
        return value

    def strings(self, key: str) -> tuple[str, ...]:
        """Take a list of non-empty strings."""
        value = self.take(key)
        if not isinstance(value, list) or not all(isinstance(item, str) and item for item in value):
            self.refuse(key, value, "a list of non-empty strings")
        return tuple(value)

    def integers(self, key: str, low: int = 0, high: int = 2**63 - 1) -> tuple[int, ...]:
        """Take a list of integers, each in [low, high]."""
        value = self.take(key)
        if not isinstance(value, list) or not all(
            type(item) is int and low <= item <= high for item in value
        ):
            self.refuse(key, value, f"a list of integers from {low} to {high}")
        return tuple(value)

    def items(self, key: str) -> list[object]:
        """Take a list of anything, to be checked by the caller."""
        value = self.take(key)
        if not isinstance(value, list):
            self.refuse(key, value, "a list")
        return value

    def fields(self, key: str) -> "Fields":
        """Take an object, to be taken apart in turn."""
        shown = key if key.isprintable() and len(key) <= _MOST_SHOWN else quoted(key)
        return Fields(self.take(key), f"{self._where}: {shown}", self._error)

    def each(self, key: str, read: "Callable[[Fields, str], _Item]") -> Mapping[str, _Item]:
        """Take an object whose keys are free.

        Args:
            key: of the object.
            read: called with the fields of the object and each of its keys; takes that key's value.

        Returns:
            key → what `read` made of its value.
        """
        inner = self.fields(key)
        return {name: read(inner, name) for name in inner.left()}

    def left(self) -> tuple[str, ...]:
        """Return the keys that nobody took yet."""
        return tuple(self._left)

    def end(self) -> None:
        """Refuse every key that nobody took."""
        if self._left:
            names = ", ".join(quoted(name) for name in list(self._left)[:5])
            raise self._error(f"{self._where}: {len(self._left)} unknown key(s): {names}")
