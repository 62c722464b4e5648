"""Runs an op by its reference implementation in plain torch."""

from typing import Any

from torch import Tensor

from ttc.plugins.ops import OpSpec

__all__ = ["run_naive"]


def run_naive(op: OpSpec, *inputs: Tensor, **attributes: Any) -> tuple[Tensor, ...]:
    """Return the outputs of one op, computed by the function in its folder's `naive.py`."""
    outputs: tuple[Tensor, ...] = op.load("naive")(*inputs, **attributes)
    return outputs
