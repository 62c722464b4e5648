"""The ops between the products: twin, body and kernel agree, and say what they are made of."""

import numpy as np
import pytest
import torch

from tests.support import tolerances
from tests.support.compare import assert_close
from tests.support.kernels import check_against_naive
from tests.support.single_op import run_body
from ttc.plugins.gated_group_norm import GATED_GROUP_NORM
from ttc.plugins.naive import run_naive
from ttc.plugins.residual_stream import (
    GATED_MIXTURE_RESIDUAL,
    GATED_RESIDUAL,
    MIXTURE_RESIDUAL,
    MODULATED_NORM,
    NORM_MODULATED,
    STREAM_NORM,
)
from ttc.plugins.residual_stream import OPS as STREAM_OPS
from ttc.plugins.squared_relu import SQUARED_RELU
from ttc.plugins.triton import run_triton

EPSILON = 1e-5
GLUE = (*STREAM_OPS, GATED_GROUP_NORM, SQUARED_RELU)
SHAPES = [  # B, L, D, G
    (1, 1, 8, 1),
    (3, 5, 20, 2),
    (2, 9, 40, 4),
    pytest.param((1, 16, 2688, 8), marks=pytest.mark.gpu),  # the real model's
    pytest.param((2, 130, 2688, 8), marks=pytest.mark.gpu),
]


def example(op, shape, dtype="float32"):
    """Inputs of which products stay below ten; t of rows are masked shares, of several the first negative."""
    B, L, D, G = shape
    sizes = {"B": B, "L": L, "D": D, "S": D + 3, "M": D * G, "3": 3}
    random = torch.Generator().manual_seed(B * L * D)
    inputs = []
    for spec in op.inputs:
        tensor = torch.randn([sizes[dim] for dim in spec.shape], generator=random) / 2
        if spec.name == "t":
            tensor = tensor.abs()
            tensor[0] = -1.0 if B > 1 else 0.0
        inputs.append(tensor.to(getattr(torch, dtype if spec.dtype == "compute" else spec.dtype)))
    attributes = {"epsilon": EPSILON, "G": G}
    return inputs, {name: attributes[name] for name in op.attributes}


@pytest.mark.parametrize("dtype", ["float32", "float16", "bfloat16"])
@pytest.mark.parametrize("shape", SHAPES, ids=str)
@pytest.mark.parametrize("op", GLUE, ids=lambda op: op.name)
def test_kernel_is_the_twin(device, op, shape, dtype):
    if device == "cpu" and dtype == "float16" and shape != SHAPES[1]:
        pytest.skip("one shape in float16 is enough for the interpreter")
    inputs, attributes = example(op, shape, dtype)
    check_against_naive(op, inputs, device, tolerances.KERNEL[dtype], **attributes)


@pytest.mark.parametrize("shape", SHAPES[:3], ids=str)
@pytest.mark.parametrize("op", GLUE, ids=lambda op: op.name)
def test_body_is_the_twin(op, shape):
    inputs, attributes = example(op, shape)
    (body,) = run_body(op, [tensor.numpy() for tensor in inputs], attributes)
    assert_close(body, run_naive(op, *inputs, **attributes)[0], tolerances.OP, op.name)


@pytest.mark.parametrize("op", GLUE, ids=lambda op: op.name)
def test_nan_stays_with_its_token(device, op):
    inputs, attributes = example(op, (2, 3, 12, 2))
    inputs[0][1, 2, 5] = float("nan")
    check_against_naive(op, inputs, device, tolerances.KERNEL["float32"], **attributes)
    (got,) = run_naive(op, *inputs, **attributes)
    assert got.isnan().any(-1).nonzero().tolist() == [[1, 2]]


def test_the_definition():
    """In float64, of the two that have the most in them."""
    inputs, attributes = example(NORM_MODULATED, (3, 5, 20, 2))
    x, modulation, t, table, weight = (tensor.numpy().astype(np.float64) for tensor in inputs)
    neutral = np.array([0.0, 0.0, 1.0])[None, :, None]
    shift, scale, gate = np.split(np.where((t >= 0)[:, None, None], modulation + table, neutral), 3, axis=1)
    normed = x / np.sqrt((x**2).mean(-1, keepdims=True) + EPSILON) * weight
    (got,) = run_naive(NORM_MODULATED, *inputs, **attributes)
    assert_close(got, normed * (1 + scale) + shift, tolerances.OP, "norm, then modulated")
    moved = x * (1 + scale) + shift
    (got,) = run_naive(MODULATED_NORM, *inputs, **attributes)
    want = moved / np.sqrt((moved**2).mean(-1, keepdims=True) + EPSILON) * weight
    assert_close(got, want, tolerances.OP, "modulated, then norm")
    inputs, _ = example(GATED_MIXTURE_RESIDUAL, (3, 5, 20, 2))
    x, routed, shared, modulation, t, table = (tensor.numpy().astype(np.float64) for tensor in inputs)
    gate = np.where((t >= 0)[:, None, None], modulation + table, neutral)[:, 2:]
    (got,) = run_naive(GATED_MIXTURE_RESIDUAL, *inputs)
    assert_close(got, x + gate * (routed + shared), tolerances.OP, "gate, residual")


@pytest.mark.parametrize(("plain", "gated"), [(MIXTURE_RESIDUAL, GATED_MIXTURE_RESIDUAL)])
def test_unconditioned_rows_are_as_without_modulation(plain, gated):
    """Bit for bit, whatever the modulation holds, NaN too."""
    inputs, _ = example(gated, (1, 4, 12, 2))
    modulation, t, table = torch.full((1, 3, 12), torch.nan), torch.tensor([-1.0]), inputs[-1]
    got = run_naive(gated, *inputs[:3], modulation, t, table)[0]
    assert torch.equal(got, run_naive(plain, *inputs[:3])[0])
    x, weight = inputs[0], torch.ones(12)
    for op in (MODULATED_NORM, NORM_MODULATED):
        got = run_naive(op, x, modulation, t, table, weight, epsilon=EPSILON)[0]
        assert torch.equal(got, run_naive(STREAM_NORM, x, weight, epsilon=EPSILON)[0])
    assert torch.equal(run_naive(GATED_RESIDUAL, x, inputs[2], modulation, t, table)[0], x + inputs[2])


def test_z_is_read_where_in_proj_left_it(device):
    """The gate is columns of a wider matrix: the same bits as from a dense copy."""
    inputs, attributes = example(GATED_GROUP_NORM, (2, 5, 20, 2), "bfloat16")
    y, z, weight = (tensor.to(device) for tensor in inputs)
    wide = torch.cat([z, torch.full_like(z, torch.nan)], -1)
    got = run_triton(GATED_GROUP_NORM, y, wide[..., : z.shape[-1]], weight, **attributes)
    want = run_triton(GATED_GROUP_NORM, y, z, weight, **attributes)
    assert torch.equal(got[0], want[0])
