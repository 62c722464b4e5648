"""`RouterLogits` in standard ONNX operators."""

from collections.abc import Mapping
from typing import Any

__all__ = ["router_logits"]

_TEXT = """
RouterLogits (x, gate) => (logits)
{
    x_f = Cast <to: int = 1> (x)
    logits = Gemm <transB: int = 1> (x_f, gate)
}
"""


def router_logits(values: Mapping[str, Any]) -> str:
    """Return the ONNX text of `RouterLogits`; nothing in it depends on the model."""
    return _TEXT
