"""What a text must look like: the options `json_schema`, `regex` and `one_of`, checked as far as that goes
without the package that follows them; and what the core knows of one that is being followed.
"""

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal, Protocol

from ttc.errors import InputError
from ttc.formats.strictjson import parse_json, quoted
from ttc.runtime.interface.sampling import TokenMask

__all__ = ["GRAMMAR_OPTIONS", "Grammar", "GrammarSource", "read_grammar"]

GRAMMAR_OPTIONS = ("json_schema", "regex", "one_of")
# The work of building a grammar grows with its text, in bad cases with the square of it.
MAX_SCHEMA_BYTES = 32 * 1024
MAX_REGEX_BYTES = 4 * 1024
MAX_TEXTS, MAX_TEXT_BYTES = 1024, 32 * 1024


@dataclass(frozen=True, slots=True)
class GrammarSource:
    """A grammar as it was asked for.

    Attributes:
        kind: the option's name.
        text: the JSON schema as JSON, the regular expression, or the texts as a JSON list.
    """

    kind: Literal["json_schema", "regex", "one_of"]
    text: str


class Grammar(Protocol):
    """Follows the tokens of one row, and says which may come next. The eos ids of the row may come where the
    text is complete, and end it.
    """

    @property
    def complete(self) -> bool:
        """Whether the text may end here."""

    @property
    def problem(self) -> str:
        """What keeps it from being followed any further; empty where nothing does."""

    def mask(self, draft: Sequence[int]) -> TokenMask:
        """Return which tokens may come next (position 0) and after each token of a draft."""

    def usable(self, draft: Sequence[int]) -> int:
        """Return how many tokens of a draft may come next, one after the other, without ending the row."""

    def push(self, tokens: Sequence[int]) -> int | None:
        """Take new tokens; return how many of them belong to the text if it ends among them because nothing
        may follow, else None.
        """


def read_grammar(json_schema: object, regex: object, one_of: object) -> GrammarSource | None:
    """Return the grammar that these options ask for; None where none of them is given.

    Raises:
        InputError: more than one is given, or one is not valid.
    """
    values = zip(GRAMMAR_OPTIONS, (json_schema, regex, one_of), strict=True)
    given = [name for name, value in values if value is not None]
    if not given:
        return None
    if len(given) > 1:
        raise InputError(
            f"{' and '.join(given)} are given; a text follows one of {', '.join(GRAMMAR_OPTIONS)}"
        )
    if json_schema is not None:
        return GrammarSource("json_schema", _schema(json_schema))
    if regex is not None:
        return GrammarSource("regex", _regex(regex))
    return GrammarSource("one_of", _texts(one_of))


def _schema(value: Any) -> str:
    if isinstance(value, Mapping):
        try:
            value = json.dumps(dict(value), allow_nan=False)
        except (TypeError, ValueError, RecursionError) as fault:
            raise InputError(f"json_schema is no JSON ({quoted(str(fault))}); valid: a JSON schema") from None
    if not isinstance(value, str):
        raise InputError(f"json_schema is {quoted(value)}; valid: a JSON schema, as a dict or as JSON text")
    raw = _encoded("json_schema", value, MAX_SCHEMA_BYTES)
    if not isinstance(parse_json(raw, "json_schema", InputError), dict):
        raise InputError(
            f'json_schema is {quoted(value)}; valid: a JSON object that is a schema; {{"type": "object"}} '
            "lets any JSON object pass"
        )
    return value


def _regex(value: Any) -> str:
    if not isinstance(value, str) or not value:
        raise InputError(f"regex is {quoted(value)}; valid: a regular expression for the whole text")
    _encoded("regex", value, MAX_REGEX_BYTES)
    return value


def _texts(value: Any) -> str:
    listed = isinstance(value, Sequence) and not isinstance(value, str | bytes)
    if not listed or not value or not all(isinstance(text, str) and text for text in value):
        raise InputError(f"one_of is {quoted(value)}; valid: a list of texts, none of them empty")
    if len(value) > MAX_TEXTS:
        raise InputError(f"one_of has {len(value)} texts; valid: up to {MAX_TEXTS}")
    for text in value:
        _encoded("one_of", text, MAX_TEXT_BYTES)
    joined = json.dumps(list(value), ensure_ascii=False)
    _encoded("one_of", joined, MAX_TEXT_BYTES)
    return joined


def _encoded(name: str, text: str, most: int) -> bytes:
    try:
        raw = text.encode("utf-8")
    except UnicodeEncodeError as fault:
        raise InputError(f"{name} is not valid text: {fault.reason} at character {fault.start}") from None
    if len(raw) > most:
        raise InputError(f"{name} has {len(raw)} bytes; valid: up to {most}")
    return raw
