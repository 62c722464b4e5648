r"""Lists of modules as quantisers write them: names, names with `*`, and (compressed-tensors) expressions.

    lm_head                         this module, and what is inside it
    backbone.layers.3*              what begins so; `*` may stand anywhere and takes dots too
    re:.*mixer\.gate$               what the expression matches from the start of the name

The lists are read from files of others, and an expression can be made to take for ever. So only those with
few repetitions, and none of a group, are taken.
"""

import re
from collections.abc import Iterable, Sequence

from ttc.errors import CheckpointError
from ttc.formats.strictjson import quoted

__all__ = ["Patterns"]

_EXPRESSION = "re:"
_MAX_CHARS, _MAX_REPETITIONS = 300, 4


class Patterns:
    """A list of modules."""

    def __init__(self, written: Iterable[str], where: str) -> None:
        """Take the entries of a list; `where` names it in messages.

        Raises:
            CheckpointError: an expression is none, or could take for ever.
        """
        self.entries = frozenset(written)
        self._named: set[str] = set()
        self._prefixes: list[str] = []
        self._globs: list[tuple[str, Sequence[str]]] = []
        self._expressions: list[tuple[str, re.Pattern[str]]] = []
        for entry in sorted(self.entries):
            if entry.startswith(_EXPRESSION):
                self._expressions.append((entry, _expression(entry, where)))
            elif "*" not in entry:
                self._named.add(entry)
            elif entry.index("*") == len(entry) - 1:
                self._prefixes.append(entry[:-1])
            else:
                self._globs.append((entry, entry.split("*")))
        self._starts = (*self._prefixes, *(f"{name}." for name in self._named))

    def match(self, names: Iterable[str]) -> str | None:
        """Return the entry that one of these names of a module is in; None: it is in none."""
        for name in names:
            if name in self._named:
                return name
            if name.startswith(self._starts):
                start = next(start for start in self._starts if name.startswith(start))
                return f"{start}*" if start in self._prefixes else start[:-1]
            for entry, pieces in self._globs:
                if _fits(name, pieces):
                    return entry
            for entry, expression in self._expressions:
                if expression.match(name):
                    return entry
        return None


def _fits(name: str, pieces: Sequence[str]) -> bool:
    """Whether the name is these pieces with anything between them."""
    first, *middle, last = pieces
    if not name.startswith(first) or not name.endswith(last) or len(name) < len(first) + len(last):
        return False
    at, end = len(first), len(name) - len(last)
    for piece in middle:
        at = name.find(piece, at, end)
        if at < 0:
            return False
        at += len(piece)
    return True


def _expression(entry: str, where: str) -> re.Pattern[str]:
    text = entry.removeprefix(_EXPRESSION)
    bare = re.sub(r"\\.", "", text)
    repetitions = len(re.findall(r"[*+?{]", bare))
    if len(text) > _MAX_CHARS or repetitions > _MAX_REPETITIONS or re.search(r"\)[*+?{]|\(\?", bare):
        raise CheckpointError(
            f"{where}: the expression {quoted(entry)} is refused, since it could take for ever; at most "
            f"{_MAX_CHARS} characters with {_MAX_REPETITIONS} repetitions, none of a group, are taken: "
            "name the modules instead"
        )
    try:
        return re.compile(text)
    except re.error as fault:
        raise CheckpointError(f"{where}: {quoted(entry)} is no regular expression ({fault})") from None
