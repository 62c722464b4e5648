"""`SquaredRelu` in standard ONNX operators."""

from collections.abc import Mapping
from typing import Any

__all__ = ["squared_relu"]

_TEXT = """
SquaredRelu (x) => (activated)
{
    positive = Relu (x)
    activated = Mul (positive, positive)
}
"""


def squared_relu(values: Mapping[str, Any]) -> str:
    """Return the ONNX text of `SquaredRelu`; nothing in it depends on the model."""
    return _TEXT
