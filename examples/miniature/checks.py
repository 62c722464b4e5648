"""Whether a generated text answers its problem."""

import json
import re

__all__ = ["solved"]

_ANSWER = re.compile(r"The answer is ([^.]*)\.")


def solved(check: str, answer: str, text: str, ended: bool) -> bool:
    """Whether `text` holds the answer, by the problem's check ("answer", "exact" or "json").

    ended: whether the model stopped by itself; an answer followed by a loop does not count.
    """
    if not ended:
        return False
    if check == "answer":
        return _ANSWER.findall(text) == [answer]
    if check == "exact":
        return text.strip() == answer
    if check == "json":
        try:
            return bool(json.loads(text) == json.loads(answer))
        except json.JSONDecodeError:
            return False
    raise ValueError(f"unknown check {check!r}; valid: answer, exact, json")
