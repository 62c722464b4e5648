"""Whether what a model wrote is right, and whether it ran into a loop.

    answer   the text states "answer is X" (or "#### X"), every time the same X, and X is the answer; numbers
             are compared as numbers
    exact    the text is the answer, white space around it apart
    regex    the pattern is found in the text, within two seconds
    json     the text is one JSON value and nothing else, equal to the answer's

An answer followed by a loop does not count: a reader, or a program that reads it, has to throw it away.
"""

import math
import re
from collections.abc import Sequence
from decimal import Decimal, InvalidOperation

from ttc.bench.patterns import PatternSearch
from ttc.bench.problems import Problem
from ttc.errors import InputError
from ttc.formats.strictjson import parse_json

__all__ = ["is_looping", "is_right", "wilson"]

_STATED = re.compile(r"(?:answer is|####)[ :]*(.*?)(?=\.(?:\s|$)|\n|$)", re.IGNORECASE)
# A loop: the same up to 64 tokens at least three times in a row, over at least 24 tokens. Repetition that
# means something (a run of digits, three equal records) is shorter.
_MAX_PERIOD, _MIN_TURNS, _MIN_TOKENS = 64, 3, 24


def is_right(problem: Problem, text: str, search: PatternSearch) -> bool:
    """Return whether `text`, the new tokens decoded, answers the problem; `search` looks for patterns."""
    for stop in problem.stop:
        text = text.split(stop, 1)[0]
    match problem.check:
        case "answer":
            stated = {_plain(found) for found in _STATED.findall(text)}
            return stated == {_plain(problem.answer)}
        case "exact":
            return text.strip() == problem.answer.strip()
        case "regex":
            return search.finds(problem.answer, text)
        case "json":
            return _is_json(text, problem.answer)
    raise InputError(f"unknown check {problem.check!r}")


def is_looping(tokens: Sequence[int]) -> bool:
    """Return whether a piece of the tokens repeats itself over and over, anywhere in them."""
    for period in range(1, min(_MAX_PERIOD, len(tokens) // _MIN_TURNS) + 1):
        needed = max(_MIN_TURNS * period, _MIN_TOKENS) - period
        run = 0
        for here, before in zip(tokens[period:], tokens, strict=False):
            run = run + 1 if here == before else 0
            if run >= needed:
                return True
    return False


def wilson(correct: int, total: int) -> tuple[float, float]:
    """95 % interval of a share (Wilson's score interval)."""
    z = 1.959963984540054
    share = correct / total
    middle = share + z * z / (2 * total)
    half = z * math.sqrt(share * (1 - share) / total + z * z / (4 * total * total))
    scale = 1 + z * z / total
    return max(0.0, (middle - half) / scale), min(1.0, (middle + half) / scale)


def _plain(stated: str) -> str:
    """Return an answer without case, blanks and currency; a number in its shortest form."""
    text = " ".join(stated.split()).rstrip(".").lower()
    number = text.strip("$€£ ")
    if re.fullmatch(r"-?\d{1,3}(,\d{3})+(\.\d+)?", number):
        number = number.replace(",", "")
    try:
        value = Decimal(number)
    except InvalidOperation:
        return text
    return str(value.normalize() + 0) if value.is_finite() else text


def _is_json(text: str, answer: str) -> bool:
    try:
        found = parse_json(text.strip().encode(), "text", InputError)
    except (InputError, UnicodeEncodeError):
        return False
    return _canonical(found) == _canonical(parse_json(answer.encode(), "answer", InputError))


def _canonical(value: object) -> object:
    """Equal exactly for equal JSON: a bool is no number, 1 and 1.0 are the same number, key order is none."""
    match value:
        case bool():
            return ("bool", value)
        case int() | float():
            return ("number", value)
        case list():
            return ("list", [_canonical(item) for item in value])
        case dict():
            return ("object", {key: _canonical(item) for key, item in value.items()})
    return value
