"""What differs between two descriptions."""

from collections.abc import Iterator, Mapping
from typing import Any

__all__ = ["differences"]

# Where something lies says nothing of what it is.
_IGNORED = ("path", "root")
_ABSENT = None


def differences(first: Mapping[str, Any], second: Mapping[str, Any]) -> list[tuple[str, Any, Any]]:
    """Key, value there and value here, for everything that is not the same; None where one side has no such
    key. Keys of nested objects are joined by dots; lists of named objects are compared by name.
    """
    return list(_walk("", first, second))


def _walk(where: str, a: Any, b: Any) -> Iterator[tuple[str, Any, Any]]:
    a, b = _named(a), _named(b)
    if isinstance(a, Mapping) and isinstance(b, Mapping):
        for key in dict.fromkeys((*a, *b)):
            if key not in _IGNORED:
                yield from _walk(f"{where}.{key}" if where else str(key), a.get(key, _ABSENT), b.get(key))
    elif a != b:
        yield where, a, b


def _named(value: Any) -> Any:
    """Return a list of objects that have names, as an object by name."""
    if isinstance(value, list) and value and all(isinstance(v, Mapping) and "name" in v for v in value):
        return {v["name"]: {key: item for key, item in v.items() if key != "name"} for v in value}
    return value
