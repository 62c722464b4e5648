"""Fills the blanks of a text in ONNX's own syntax."""

from collections.abc import Mapping
from string import Template
from typing import Any

__all__ = ["render"]


def render(text: str, values: Mapping[str, Any]) -> str:
    """Return the text with every `$NAME` replaced by its value, also in the passages that are values.

    Args:
        text: ONNX text, braces and all.
        values: name → number (a dimension or an attribute) or a passage of text. Others do no harm.

    Raises:
        KeyError: a blank has no value.
    """
    while "$" in text:
        text = Template(text).substitute(values)
    return text
