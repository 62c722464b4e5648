"""DiffusionStep: numpy, torch, function body and the recorded rule."""

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from tests.support import tolerances
from tests.support.compare import assert_close, assert_equal
from tests.support.golden import golden
from tests.support.single_op import run_body
from ttc.plugins.counter_rng import row_key
from ttc.plugins.diffusion_step import DIFFUSION_COMMIT, DIFFUSION_STEP
from ttc.plugins.diffusion_step import naive_numpy as commit
from ttc.plugins.diffusion_step.naive import diffusion_commit, diffusion_step
from ttc.runtime.interface.backend import StepInputs, host_step

UNITS = golden("units")


def recorded_rule(block, confidence, threshold, steps_left, mask_id):
    """The rule as the specification words it, one row, in plain Python: which positions are committed."""
    masked = [i for i, token in enumerate(block) if token == mask_id]
    if not masked:
        return set()
    count = max(sum(confidence[i] > threshold for i in masked), 1, -(-len(masked) // max(steps_left, 1)))
    order = sorted(masked, key=lambda i: (confidence[i], i), reverse=True)
    return set(order[: min(count, len(masked))])


@st.composite
def commits(draw):
    B, L, mask_id = draw(st.integers(1, 3)), draw(st.integers(1, 20)), 3
    # Confidences from a few values: ties, all below the threshold, and exactly the threshold all happen.
    levels = st.sampled_from([0.0, 0.1, 0.25, 0.5, 0.75, 0.9, 1.0])
    confidence = np.array([[draw(levels) for _ in range(L)] for _ in range(B)], np.float32)
    block = np.array([[draw(st.sampled_from([3, 3, 7])) for _ in range(L)] for _ in range(B)], np.int32)
    confidence[block != mask_id] = np.inf
    threshold = np.array([draw(st.sampled_from([0.0, 0.25, 0.5, 0.9, 1.0])) for _ in range(B)], np.float32)
    steps_left = np.array([draw(st.integers(1, 20) | st.just(2**31 - 1)) for _ in range(B)], np.int32)
    predicted = np.where(block == mask_id, 11, block).astype(np.int32)
    return block, predicted, confidence, threshold, steps_left


@given(commits())
def test_commit_rule_four_ways(example):
    block, predicted, confidence, threshold, steps_left = example
    want = block.copy()
    for r in range(len(block)):
        for i in recorded_rule(block[r], confidence[r], threshold[r], steps_left[r], 3):
            want[r, i] = predicted[r, i]
    masked = (want == 3).sum(-1)
    numpy_next, numpy_masked = commit.commit(block, predicted, confidence, threshold, steps_left, 3)
    torch_next, torch_masked = diffusion_commit(*map(torch.from_numpy, example), mask_id=3)
    body_next, body_masked = run_body(DIFFUSION_COMMIT, example, {"mask_id": 3})
    for way, got, count in (
        ("numpy", numpy_next, numpy_masked),
        ("torch", torch_next, torch_masked),
        ("body", body_next, body_masked),
    ):
        assert_equal(got, want, f"{way}: next block")
        assert_equal(count, masked, f"{way}: masked count")


def step_example(B, L, V, temperature, seed=0, mask_id=3):
    rng = np.random.default_rng(seed)
    logits = (rng.standard_normal((B, L, V)) * 3).astype(np.float32)
    block = np.where(rng.random((B, L)) < 0.6, mask_id, rng.integers(4, V, (B, L))).astype(np.int32)
    return StepInputs(
        block_ids=block,
        threshold=np.full(B, 0.6, np.float32),
        temperature=np.array([temperature] * (B - 1) + [0.0], np.float32),
        row_key=np.array([row_key(seed, r) for r in range(B)], np.int64),
        position=rng.integers(0, 1000, B).astype(np.int32),
        step=rng.integers(0, 5, B).astype(np.int32),
        steps_left=rng.integers(1, 9, B).astype(np.int32),
    ), logits


@pytest.mark.parametrize("temperature", [0.0, 0.3, 1.0, 2.5])
@pytest.mark.parametrize("shape", [(1, 1, 8), (2, 5, 24), (3, 16, 320), (2, 17, 1000)])
def test_whole_step_three_ways(shape, temperature):
    inputs, logits = step_example(*shape, temperature)
    arrays = [logits, *(getattr(inputs, spec.name) for spec in DIFFUSION_STEP.inputs[1:])]
    host = host_step(logits, inputs, 3)
    want = (host.next_block_ids, host.predicted_ids, host.confidence, host.masked_count)
    naive = diffusion_step(*map(torch.from_numpy, arrays), mask_id=3)
    body = run_body(DIFFUSION_STEP, arrays, {"mask_id": 3})
    for way, got in (("naive", naive), ("body", body)):
        for spec, a, b in zip(DIFFUSION_STEP.outputs, got, want, strict=True):
            if spec.dtype == "int32":
                assert_equal(a, b, f"{way}: {spec.name}")
            else:
                assert_close(a, b, tolerances.PROBABILITIES, f"{way}: {spec.name}")


def test_sampling_follows_the_seed_and_the_place():
    """Another seed, row, position or step draws other tokens; the same draws the same."""
    inputs, logits = step_example(2, 16, 320, 1.0)
    logits[:] = 0.0

    def drawn(**changes):
        changed = StepInputs(
            **{n: changes.get(n, getattr(inputs, n)) for n in StepInputs.__dataclass_fields__}
        )
        return host_step(logits, changed, 3).predicted_ids[0].tolist()

    base = drawn()
    assert drawn() == base
    assert drawn(row_key=inputs.row_key + 1) != base
    assert drawn(position=inputs.position + 1) != base
    assert drawn(step=inputs.step + 1) != base


def test_mask_id_is_never_predicted():
    inputs, logits = step_example(1, 8, 24, 0.0)
    logits[..., 3] = 1e6
    outputs = host_step(logits, inputs, 3)
    assert not (outputs.predicted_ids[inputs.block_ids == 3] == 3).any()


def test_equal_logits_take_the_lowest_id():
    inputs, logits = step_example(1, 8, 24, 0.0)
    logits[:] = 1.0
    arrays = [logits, *(getattr(inputs, spec.name) for spec in DIFFUSION_STEP.inputs[1:])]
    masked = inputs.block_ids == 3
    for predicted in (
        host_step(logits, inputs, 3).predicted_ids,
        diffusion_step(*map(torch.from_numpy, arrays), mask_id=3)[1].numpy(),
        run_body(DIFFUSION_STEP, arrays, {"mask_id": 3})[1],
    ):
        assert (predicted[masked] == 0).all()


def test_recorded_predictions():
    v = UNITS.vectors
    predicted, confidence = commit.predict(v["mdlm/logits"], v["mdlm/xt"], np.zeros(2, np.float32), None, 3)
    assert_equal(predicted, v["mdlm/predicted"], "predicted")
    assert_close(confidence, v["mdlm/confidence"], tolerances.PROBABILITIES, "confidence")


def test_nan_logits_give_nan_confidence():
    """What the engine's check relies on, in torch, numpy and ONNX."""
    inputs, logits = step_example(1, 8, 24, 0.0)
    inputs.block_ids[0, 2] = 3
    logits[0, 2, 5] = np.nan
    arrays = [logits, *(getattr(inputs, spec.name) for spec in DIFFUSION_STEP.inputs[1:])]
    assert np.isnan(host_step(logits, inputs, 3).confidence[0, 2])
    assert torch.isnan(diffusion_step(*map(torch.from_numpy, arrays), mask_id=3)[2][0, 2])
    assert np.isnan(run_body(DIFFUSION_STEP, arrays, {"mask_id": 3})[2][0, 2])
