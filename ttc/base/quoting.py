"""What somebody else wrote, in messages and on a terminal: escaped, and not too much of it."""

import reprlib

__all__ = ["escaped", "quoted"]

_MOST_QUOTED = 100
_SHORT = reprlib.Repr()
_SHORT.maxlevel, _SHORT.maxstring, _SHORT.maxother = 3, 90, 90


def quoted(value: object) -> str:
    """Return `value` for a one-line message: escaped, and at most 100 characters of it."""
    try:
        text = _SHORT.repr(value).replace("\n", " ")
    except (ValueError, RecursionError):  # an integer of thousands of digits has no text
        text = f"a {type(value).__name__} too large to show"
    text = escaped(text)
    return text if len(text) <= _MOST_QUOTED else text[: _MOST_QUOTED - 1] + "…"


def escaped(text: str, kept: str = "") -> str:
    r"""Return a text with what is not printable as an escape, so that no terminal obeys it: "\x1b[2J".

    kept: characters that stay, as a line end.
    """
    return "".join(c if c.isprintable() or c in kept else ascii(c)[1:-1] for c in text)
