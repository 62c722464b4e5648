"""Runs kernels as hard as they will ever be run: guard bands around every tensor, outputs poisoned first."""

from collections.abc import Sequence
from typing import Any

import numpy as np
import torch
from torch import Tensor

from tests.support.compare import assert_close, assert_equal
from ttc.plugins.naive import run_naive
from ttc.plugins.ops import OpSpec
from ttc.plugins.torch_tensors import dtype_names, logical_shapes
from ttc.plugins.triton import run_triton

_GUARD = 64  # elements before and after, which keeps the alignment


def poison(dtype: torch.dtype) -> float:
    """NaN for floats; for ints a value that is wrong wherever it shows up and leads nowhere as an index."""
    return float("nan") if dtype.is_floating_point else 1


def guarded(shape: Sequence[int], dtype: torch.dtype, device: str) -> tuple[Tensor, Tensor]:
    """A poisoned tensor in the middle of a poisoned buffer, and that buffer."""
    size = int(np.prod(shape))
    buffer = torch.full((size + 2 * _GUARD,), poison(dtype), dtype=dtype, device=device)
    return buffer[_GUARD : _GUARD + size].view(*shape), buffer


def wide(tensor: Tensor) -> Tensor:
    """The same numbers in a dtype that torch compares; eight-bit floats are not."""
    return tensor.float() if tensor.dtype.is_floating_point else tensor


def check_guards(buffer: Tensor, what: str) -> None:
    """The bands are as they were."""
    bands = torch.cat([buffer[:_GUARD], buffer[-_GUARD:]]).cpu()
    intact = wide(bands).isnan() if buffer.dtype.is_floating_point else bands == poison(buffer.dtype)
    assert intact.all(), f"{what}: {int((~intact).sum())} elements outside of the tensor were written"


def run_guarded(
    op: OpSpec, inputs: Sequence[Tensor], device: str, tile: int | None = None, **attributes: Any
) -> tuple[Tensor, ...]:
    """The op by its kernels: inputs from between guard bands, outputs into poisoned tensors between such."""
    placed, buffers = [], []
    for tensor in inputs:
        view, buffer = guarded(tensor.shape, tensor.dtype, device)
        view.copy_(tensor)
        placed.append(view)
        buffers.append(buffer)
    words = op.words(dtype_names(op, inputs))
    out = []
    shapes = op.output_shapes(logical_shapes(op, inputs), attributes)
    for spec, shape in zip(op.outputs, shapes, strict=True):
        dtype = getattr(torch, spec.dtype_in(words))
        view, buffer = guarded(shape, dtype, device)
        out.append(view)
        buffers.append(buffer)
    before = [tensor.clone() for tensor in placed]
    # The interpreter computes with numpy, which warns where a GPU gives NaN and infinity.
    with np.errstate(all="ignore"):
        results = run_triton(op, *placed, out=out, tile=tile, **attributes)
    assert all(a.data_ptr() == b.data_ptr() for a, b in zip(results, out, strict=True))
    for spec, buffer in zip((*op.inputs, *op.outputs), buffers, strict=True):
        check_guards(buffer, f"{op.name}: {spec.name}")
    for spec, now, then in zip(op.inputs, placed, before, strict=True):
        assert torch.equal(wide(now).nan_to_num(), wide(then).nan_to_num()), (
            f"{op.name}: {spec.name} was written"
        )
    return results


def check_against_naive(
    op: OpSpec,
    inputs: Sequence[Tensor],
    device: str,
    atol: float,
    tile: int | None = None,
    **attributes: Any,
) -> None:
    """Kernel and `naive.py` give the same: integers and NaN exactly, floats within the tolerance."""
    check_outputs(op, inputs, run_naive(op, *inputs, **attributes), device, atol, tile, **attributes)


def check_outputs(
    op: OpSpec,
    inputs: Sequence[Tensor],
    want: Sequence[Tensor],
    device: str,
    atol: float,
    tile: int | None = None,
    **attributes: Any,
) -> None:
    """The same where what is wanted is there, as for several tiles of a size that takes the twin long."""
    got = run_guarded(op, inputs, device, tile, **attributes)
    for spec, a, b in zip(op.outputs, got, want, strict=True):
        what = f"{op.name}, tile {tile}, {attributes}: {spec.name}"
        assert a.dtype == b.dtype, what
        if a.dtype.is_floating_point:
            a, b = a.cpu().float(), b.cpu().float()
            assert_equal(a.isnan(), b.isnan(), f"{what} is NaN")
            assert_close(a.nan_to_num(0.0), b.nan_to_num(0.0), atol, what)
        else:
            assert_equal(a.cpu(), b.cpu(), what)
