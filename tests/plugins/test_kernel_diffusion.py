"""The kernels of the diffusion step against the reference implementation."""

import pytest
import torch

from tests.support import tolerances
from tests.support.kernels import check_against_naive
from ttc.plugins.counter_rng import row_key
from ttc.plugins.diffusion_step import DIFFUSION_COMMIT, DIFFUSION_PREDICT, DIFFUSION_STEP
from ttc.plugins.kernels import KERNELS

MASK = 3
SHAPES = [(1, 1, 8), (2, 5, 24), (1, 16, 320), (2, 3, 9000)]  # B, L, V


def rows(B, temperature, random):
    """temperature, row_key, position, step of a batch whose last row is greedy."""
    return [
        torch.tensor([temperature] * (B - 1) + [temperature if B == 1 else 0.0]),
        torch.tensor([row_key(2**63 + 5, row) for row in range(B)]),
        torch.randint(0, 2**31 - 200, (B,), generator=random).int(),
        torch.randint(0, 5, (B,), generator=random).int(),
    ]


def some_masked(B, L, random):
    masked = torch.rand(B, L, generator=random) < 0.6
    return torch.where(masked, MASK, torch.randint(4, 8, (B, L), generator=random)).int()


@pytest.mark.parametrize("temperature", [0.0, 0.3, 1.0, 2.5])
@pytest.mark.parametrize("shape", [*SHAPES, pytest.param((2, 16, 131072), marks=pytest.mark.gpu)], ids=str)
def test_predict(device, shape, temperature):
    random = torch.Generator().manual_seed(sum(shape))
    logits = torch.randn(*shape, generator=random) * 3
    inputs = [logits, some_masked(*shape[:2], random), *rows(shape[0], temperature, random)]
    for tile in range(len(KERNELS["DiffusionPredict"].tiles)):
        check_against_naive(
            DIFFUSION_PREDICT, inputs, device, tolerances.PROBABILITIES, tile=tile, mask_id=MASK
        )


@pytest.mark.parametrize("temperature", [0.0, 1.0])
@pytest.mark.parametrize("shape", SHAPES[1:3], ids=str)
def test_predict_as_ar_chooses(device, shape, temperature):
    """With a mask id that is no token nothing is banned, and positions that do not hold it are left alone."""
    random = torch.Generator().manual_seed(sum(shape))
    logits = torch.randn(*shape, generator=random)
    logits[:, :, MASK] += 9.0
    masked = some_masked(*shape[:2], random) == MASK
    inputs = [logits, torch.where(masked, -1, 0).int(), *rows(shape[0], temperature, random)]
    check_against_naive(DIFFUSION_PREDICT, inputs, device, tolerances.PROBABILITIES, mask_id=-1)


# Triton's interpreter asks numpy for the largest of what may be NaN throughout; some of its versions let
# numpy warn of that.
@pytest.mark.filterwarnings("ignore:All-NaN slice:RuntimeWarning")
@pytest.mark.parametrize("temperature", [0.0, 1.0])
@pytest.mark.parametrize("mask_id", [0, MASK])
def test_predict_from_numbers_that_are_none(device, temperature, mask_id):
    """One position each: all NaN, one NaN late, all −inf, all but one −inf, a +inf, ±0, all tied, none but
    the mask id finite.
    """
    random = torch.Generator().manual_seed(0)
    logits = torch.randn(1, 8, 1500, generator=random)
    logits[0, 0] = float("nan")
    logits[0, 1, 1200] = -torch.tensor(float("nan"))  # with the sign bit set
    logits[0, 2] = logits[0, 3, :1100] = logits[0, 3, 1101:] = logits[0, 7] = -float("inf")
    logits[0, 4, 7] = float("inf")
    logits[0, 5] = -1.0
    logits[0, 5, 9], logits[0, 5, 11] = -0.0, 0.0
    logits[0, 6] = 2.0
    logits[0, 7, mask_id] = 2.0
    block = torch.full((1, 8), mask_id).int()
    inputs = [logits, block, *rows(1, temperature, random)]
    check_against_naive(DIFFUSION_PREDICT, inputs, device, tolerances.PROBABILITIES, mask_id=mask_id)


@pytest.mark.parametrize("steps_left", [0, 1, 3, 2**31 - 1])
@pytest.mark.parametrize("L", [1, 3, 16, 17, 128])
def test_commit(device, L, steps_left):
    """Confidences from a few values, NaN and exactly the threshold among them: ties are the rule."""
    random = torch.Generator().manual_seed(L)
    block = some_masked(3, L, random)
    block[2] = 7  # a row with nothing left to do
    levels = torch.tensor([0.0, 0.1, 0.25, 0.5, 0.75, float("nan"), 1.0])
    confidence = levels[torch.randint(0, 7, (3, L), generator=random)]
    confidence = torch.where(block == MASK, confidence, float("inf"))
    predicted = torch.where(block == MASK, 11, block).int()
    threshold = torch.tensor([0.5, 1.0, 0.0])
    left = torch.tensor([steps_left, 2, 1]).int()
    for tile in range(len(KERNELS["DiffusionCommit"].tiles)):
        inputs = [block, predicted, confidence, threshold, left]
        check_against_naive(DIFFUSION_COMMIT, inputs, device, 0.0, tile=tile, mask_id=MASK)


def test_whole_step(device):
    random = torch.Generator().manual_seed(1)
    logits = torch.randn(2, 5, 64, generator=random)
    temperature, *rest = rows(2, 0.7, random)
    inputs = [
        logits,
        some_masked(2, 5, random),
        torch.tensor([0.1, 0.9]),
        temperature,
        *rest,
        torch.tensor([4, 1]).int(),
    ]
    check_against_naive(DIFFUSION_STEP, inputs, device, tolerances.PROBABILITIES, mask_id=MASK)
