"""Where layers meet: twin, body and kernel agree with each other and with the parts."""

import pytest
import torch

from tests.support import tolerances
from tests.support.compare import assert_close
from tests.support.kernels import check_against_naive
from tests.support.single_op import run_body
from ttc.base.dims import evaluate
from ttc.plugins.naive import run_naive
from ttc.plugins.residual_norm import GATED_MIXTURE_RESIDUAL_NORM_MODULATED, OPS, RESIDUAL_NORM
from ttc.plugins.router_logits import ROUTER_LOGITS
from ttc.plugins.table import OPS_BY_NAME
from ttc.plugins.triton import run_triton

EPSILON = 1e-5
SHAPES = [  # B, L, D, K
    (1, 1, 8, 1),
    (3, 5, 20, 2),
    (2, 9, 40, 3),
    pytest.param((1, 16, 2688, 6), marks=pytest.mark.gpu),  # the real model's
    pytest.param((2, 130, 2688, 6), marks=pytest.mark.gpu),
]


def example(op, shape, dtype="float32"):
    """Inputs of which sums stay below ten; of several rows the first is not conditioned; rows of the experts
    in an order of their own.
    """
    B, L, D, K = shape
    sizes = {"B": B, "L": L, "D": D, "T": B * L, "K": K}
    random = torch.Generator().manual_seed(B * L * D)
    inputs = []
    for spec in op.inputs:
        size = [evaluate(dim, sizes) for dim in spec.shape]
        tensor = torch.randn(size, generator=random) / 2
        if spec.name == "t":
            tensor = tensor.abs()
            tensor[0] = -1.0 if B > 1 else 0.0
        if spec.name == "grouped_rows":
            tensor = torch.randperm(B * L * K, generator=random).view(B * L, K)
        inputs.append(tensor.to(getattr(torch, dtype if spec.dtype == "compute" else spec.dtype)))
    return inputs


@pytest.mark.parametrize("dtype", ["float32", "float16", "bfloat16"])
@pytest.mark.parametrize("shape", SHAPES, ids=str)
@pytest.mark.parametrize("op", OPS, ids=lambda op: op.name)
def test_kernel_is_the_twin(device, op, shape, dtype):
    if device == "cpu" and dtype == "float16" and shape != SHAPES[1]:
        pytest.skip("one shape in float16 is enough for the interpreter")
    check_against_naive(op, example(op, shape, dtype), device, tolerances.KERNEL[dtype], epsilon=EPSILON)


@pytest.mark.parametrize("op", OPS, ids=lambda op: op.name)
def test_body_is_the_twin(op):
    inputs = example(op, SHAPES[1])
    bodies = run_body(op, [tensor.numpy() for tensor in inputs], {"epsilon": EPSILON})
    for spec, body, want in zip(op.outputs, bodies, run_naive(op, *inputs, epsilon=EPSILON), strict=True):
        assert_close(body, want, tolerances.OP, f"{op.name}: {spec.name}")


@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
@pytest.mark.parametrize("op", OPS[1:], ids=lambda op: op.name)
def test_kernel_gives_what_its_parts_kernels_give(device, op, dtype):
    """Bit for bit: numbers are rounded where the parts write them to memory."""
    inputs = [tensor.to(device) for tensor in example(op, (3, 5, 20, 2), dtype)]
    got = run_triton(op, *inputs, epsilon=EPSILON)
    named = dict(zip([spec.name for spec in op.inputs], inputs, strict=True))
    for name in op.parts:
        part = OPS_BY_NAME[name]
        takes = [named.get(spec.name) for spec in part.inputs]
        if part.glue and part.outputs[0].name == "normed":
            norm = {"x": named["stream"], "table": named.get("next_table")}
            takes = [norm.get(spec.name, named.get(spec.name)) for spec in part.inputs]
        attributes = {"epsilon": EPSILON} if part.attributes else {}
        (made,) = run_triton(part, *takes, **attributes)
        named[part.outputs[0].name] = made
        if part.name == "MoeCombine":
            named["routed"] = made.view(named["x"].shape)
    assert torch.equal(got[0], named["stream"])
    assert torch.equal(got[1], named["normed"])


@pytest.mark.parametrize("op", OPS, ids=lambda op: op.name)
def test_nan_stays_with_its_token(device, op):
    inputs = example(op, (2, 3, 12, 2))
    inputs[0][1, 2, 5] = float("nan")
    check_against_naive(op, inputs, device, tolerances.KERNEL["float32"], epsilon=EPSILON)


def test_row_numbers_that_are_none_lead_nowhere(device):
    """A TensorRT builder times a plugin on whatever it likes."""
    inputs = example(GATED_MIXTURE_RESIDUAL_NORM_MODULATED, (2, 3, 12, 2))
    inputs[3] = torch.tensor([[-5, 2**30]] * 6, dtype=torch.int32)
    got = run_triton(GATED_MIXTURE_RESIDUAL_NORM_MODULATED, *(x.to(device) for x in inputs), epsilon=EPSILON)
    inputs[3] = torch.tensor([[0, 11]] * 6, dtype=torch.int32)
    want = run_naive(GATED_MIXTURE_RESIDUAL_NORM_MODULATED, *inputs, epsilon=EPSILON)
    assert_close(got[1].cpu(), want[1], tolerances.KERNEL["float32"], "normed")


def test_the_sum_is_of_the_stream(device):
    x = torch.randn(1, 2, 8, generator=torch.Generator().manual_seed(0))
    stream, normed = run_triton(RESIDUAL_NORM, *(t.to(device) for t in (x, x, torch.ones(8))), epsilon=0.0)
    assert torch.equal(stream.cpu(), 2 * x)
    assert_close(normed.cpu().square().mean(-1), torch.ones(1, 2), tolerances.OP, "mean square")


@pytest.mark.parametrize("dtype", ["float32", "float16", "bfloat16"])
@pytest.mark.parametrize(
    "shape",
    [
        (1, 5, 3),
        (7, 40, 20),
        (33, 600, 9),
        pytest.param((1, 2688, 128), marks=pytest.mark.gpu),
        pytest.param((130, 2688, 128), marks=pytest.mark.gpu),
    ],
    ids=str,
)
def test_router_logits(device, shape, dtype):
    """Every tile; float32 whatever the tokens are in."""
    T, D, E = shape
    random = torch.Generator().manual_seed(T)
    x = torch.randn(T, D, generator=random).to(getattr(torch, dtype))
    gate = torch.randn(E, D, generator=random) * D**-0.5
    for tile in range(3):
        check_against_naive(ROUTER_LOGITS, [x, gate], device, tolerances.KERNEL["float32"], tile=tile)
    if dtype == "float32":
        (body,) = run_body(ROUTER_LOGITS, [x.numpy(), gate.numpy()], {})
        assert_close(body, run_naive(ROUTER_LOGITS, x, gate)[0], tolerances.OP, "body")
