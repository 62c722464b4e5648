"""The diffusion step in splits of the vocabulary: twins, bodies, kernels, and that all is `DiffusionStep`."""

import pytest
import torch

from tests.plugins.test_kernel_diffusion import MASK, rows, some_masked
from tests.support import tolerances
from tests.support.compare import assert_close, assert_equal
from tests.support.kernels import check_against_naive
from tests.support.single_op import run_body
from ttc.plugins.diffusion_step import DIFFUSION_PREDICT, DIFFUSION_STEP
from ttc.plugins.kernels import KERNELS
from ttc.plugins.naive import run_naive
from ttc.plugins.split_predict import SPLIT_CHOICE, SPLIT_COMMIT, SPLIT_PREDICT, splits
from ttc.plugins.triton import run_triton

# B, L, V, X: one split, splits that come out even, a last one cut off, some with nothing in them.
SHAPES = [(1, 1, 8, 1), (2, 3, 64, 4), (1, 2, 330, 7), (2, 2, 9, 7), (1, 1, 9000, 2)]
REAL = [
    pytest.param((1, 1, 131072, 64), marks=pytest.mark.gpu),
    pytest.param((2, 16, 131072, 16), marks=pytest.mark.gpu),
]


def example(shape, temperature, dtype="float32"):
    B, L, V, _ = shape
    random = torch.Generator().manual_seed(sum(shape))
    logits = (torch.randn(B, L, V, generator=random) * 3).to(getattr(torch, dtype))
    return [logits, some_masked(B, L, random), *rows(B, temperature, random)]


def of_a_step(inputs, random):
    """threshold and steps_left."""
    B = len(inputs[0])
    return torch.rand(B, generator=random), torch.randint(1, 5, (B,), generator=random).int()


def merged(run, inputs, X, mask_id):
    """Splits and what AR makes of them."""
    made = run(SPLIT_PREDICT, *inputs, mask_id=mask_id, X=X)
    return run(SPLIT_CHOICE, *made, inputs[1], mask_id=mask_id)


@pytest.mark.parametrize("dtype", ["float32", "float16", "bfloat16"])
@pytest.mark.parametrize("temperature", [0.0, 0.7])
@pytest.mark.parametrize("shape", [*SHAPES, *REAL], ids=str)
def test_reading_is_the_twin(device, shape, temperature, dtype):
    if device == "cpu" and dtype == "float16" and shape != SHAPES[1]:
        pytest.skip("one shape in float16 is enough for the interpreter")
    for tile in range(len(KERNELS["SplitPredict"].tiles)):
        check_against_naive(
            SPLIT_PREDICT,
            example(shape, temperature, dtype),
            device,
            tolerances.EXPONENTIALS,
            tile=tile,
            mask_id=MASK,
            X=shape[-1],
        )


@pytest.mark.parametrize("temperature", [0.0, 0.7])
@pytest.mark.parametrize("shape", [*SHAPES, *REAL], ids=str)
def test_merging_is_the_twin(device, shape, temperature):
    inputs = example(shape, temperature)
    made = run_naive(SPLIT_PREDICT, *inputs, mask_id=MASK, X=shape[-1])
    check_against_naive(SPLIT_CHOICE, [*made, inputs[1]], device, tolerances.PROBABILITIES, mask_id=MASK)
    step = of_a_step(inputs, torch.Generator().manual_seed(3))
    for tile in range(len(KERNELS["SplitCommit"].tiles)):
        check_against_naive(
            SPLIT_COMMIT, [*made, inputs[1], *step], device, tolerances.PROBABILITIES, tile=tile, mask_id=MASK
        )


def test_a_block_of_several_tiles(device):
    inputs = example((2, 19, 24, 3), 1.0)
    made = run_naive(SPLIT_PREDICT, *inputs, mask_id=MASK, X=3)
    step = of_a_step(inputs, torch.Generator().manual_seed(4))
    check_against_naive(
        SPLIT_COMMIT, [*made, inputs[1], *step], device, tolerances.PROBABILITIES, tile=0, mask_id=MASK
    )


@pytest.mark.parametrize("temperature", [0.0, 0.7])
@pytest.mark.parametrize("shape", SHAPES, ids=str)
def test_bodies_are_the_twins(shape, temperature):
    inputs, X = example(shape, temperature), shape[-1]
    random = torch.Generator().manual_seed(5)
    made = run_naive(SPLIT_PREDICT, *inputs, mask_id=MASK, X=X)
    cases = (
        (SPLIT_PREDICT, inputs, {"mask_id": MASK, "X": X}),
        (SPLIT_CHOICE, [*made, inputs[1]], {"mask_id": MASK}),
        (SPLIT_COMMIT, [*made, inputs[1], *of_a_step(inputs, random)], {"mask_id": MASK}),
    )
    for op, given, attributes in cases:
        bodies = run_body(op, [tensor.numpy() for tensor in given], attributes)
        for spec, body, want in zip(op.outputs, bodies, run_naive(op, *given, **attributes), strict=True):
            what = f"{op.name}: {spec.name}"
            if spec.dtype == "int32":
                assert_equal(body, want, what)
            else:
                assert_close(body, want, tolerances.PROBABILITIES, what)


@pytest.mark.parametrize("run", [run_naive, run_triton], ids=["naive", "kernels"])
@pytest.mark.parametrize("temperature", [0.0, 0.7])
@pytest.mark.parametrize("shape", SHAPES, ids=str)
def test_put_together_they_are_the_diffusion_step(device, run, shape, temperature):
    """Whichever way the vocabulary is split, and whatever AR's mask id that is no token."""
    inputs, X = [tensor.to(device) for tensor in example(shape, temperature)], shape[-1]
    threshold, steps_left = (t.to(device) for t in of_a_step(inputs, torch.Generator().manual_seed(6)))
    parts = run(SPLIT_PREDICT, *inputs, mask_id=MASK, X=X)
    got = run(SPLIT_COMMIT, *parts, inputs[1], threshold, steps_left, mask_id=MASK)
    whole = [*inputs[:2], threshold, *inputs[2:], steps_left]
    want = run_naive(DIFFUSION_STEP, *whole, mask_id=MASK)
    open_ids = torch.where(inputs[1] == MASK, -1, 0).int()
    ar = [inputs[0], open_ids, *inputs[2:]]
    got += merged(run, ar, X, -1)
    want += run_naive(DIFFUSION_PREDICT, *ar, mask_id=-1)
    for spec, a, b in zip((*DIFFUSION_STEP.outputs, *DIFFUSION_PREDICT.outputs), got, want, strict=True):
        if spec.dtype == "int32":
            assert_equal(a.cpu(), b.cpu(), spec.name)
        else:
            assert_close(a.cpu(), b.cpu(), tolerances.PROBABILITIES, spec.name)


# As in test_kernel_diffusion.
@pytest.mark.filterwarnings("ignore:All-NaN slice:RuntimeWarning")
@pytest.mark.parametrize("temperature", [0.0, 1.0])
@pytest.mark.parametrize("mask_id", [0, MASK])
def test_numbers_that_are_none(device, temperature, mask_id):
    """One position each: all NaN, one NaN late, all −inf, all but one −inf, a +inf, ±0, all tied, none but
    the mask id finite, a NaN behind +inf of another split.
    """
    random = torch.Generator().manual_seed(0)
    logits = torch.randn(1, 9, 1500, generator=random)
    logits[0, 0] = float("nan")
    logits[0, 1, 1200] = -torch.tensor(float("nan"))  # with the sign bit set
    logits[0, 2] = logits[0, 3, :1100] = logits[0, 3, 1101:] = logits[0, 7] = -float("inf")
    logits[0, 4, 7] = float("inf")
    logits[0, 5] = -1.0
    logits[0, 5, 9], logits[0, 5, 1111] = -0.0, 0.0
    logits[0, 6] = 2.0
    logits[0, 7, mask_id] = 2.0
    logits[0, 8, 4], logits[0, 8, 1300] = float("inf"), float("nan")
    block = torch.full((1, 9), mask_id).int()
    inputs = [logits, block, *rows(1, temperature, random)]
    for X in (1, 4):
        attributes = {"mask_id": mask_id, "X": X}
        check_against_naive(SPLIT_PREDICT, inputs, device, tolerances.EXPONENTIALS, **attributes)
        made = run_naive(SPLIT_PREDICT, *inputs, **attributes)
        check_against_naive(SPLIT_CHOICE, [*made, block], device, tolerances.PROBABILITIES, mask_id=mask_id)
        predicted, confidence = run_naive(SPLIT_CHOICE, *made, block, mask_id=mask_id)
        wanted, probability = run_naive(DIFFUSION_PREDICT, *inputs, mask_id=mask_id)
        assert_equal(predicted, wanted, f"{X} splits: predicted")
        assert_equal(confidence.isnan(), probability.isnan(), f"{X} splits: NaN")


def test_how_many_splits():
    assert [splits(n, 131072) for n in (1, 8, 9, 128)] == [64, 64, 16, 16]
    assert [splits(1, V) for V in (2, 2048, 2049, 9000)] == [1, 1, 2, 5]
