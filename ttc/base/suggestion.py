"""What somebody meant who misspelt a name."""

from collections.abc import Iterable
from difflib import get_close_matches

__all__ = ["suggestion"]


def suggestion(word: object, known: Iterable[str]) -> str:
    """Return " (did you mean 'ar'?)" where one of the known names is close to a word, else an empty text."""
    names = {name.lower(): name for name in known}
    found = get_close_matches(str(word)[:100].lower(), names, n=1)
    return f" (did you mean {names[found[0]]!r}?)" if found else ""
