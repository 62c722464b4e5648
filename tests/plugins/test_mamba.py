"""MambaBlockScan and MambaAdvance: the recurrence, its closed form, and the function bodies."""

import numpy as np
import pytest
import torch

from tests.support import tolerances
from tests.support.compare import assert_close
from tests.support.single_op import run_body
from ttc.plugins.mamba_advance import MAMBA_ADVANCE
from ttc.plugins.mamba_advance.naive import mamba_advance
from ttc.plugins.mamba_block_scan import MAMBA_BLOCK_SCAN
from ttc.plugins.mamba_block_scan.naive import mamba_block_scan, mamba_conv, mamba_scan, mamba_scan_recurrent

SHAPES = [  # B, L, H, P, G, N, W
    (1, 1, 2, 4, 1, 3, 4),
    (2, 3, 4, 3, 2, 5, 4),
    (1, 16, 6, 8, 1, 12, 4),
    (2, 17, 8, 4, 4, 4, 2),
    (1, 128, 4, 8, 2, 16, 4),
]


def example(B, L, H, P, G, N, W, seed=0):
    """xbc, dt, conv_state, ssm_state, conv_weight, conv_bias, dt_bias, a_log, d."""
    rng = np.random.default_rng(seed)
    F = H * P + 2 * G * N

    def normal(*shape, scale=1.0):
        return (rng.standard_normal(shape) * scale).astype(np.float32)

    return [
        normal(B, L, F),
        normal(B, L, H),
        normal(B, F, W - 1),
        normal(B, H, P, N),
        normal(F, 1, W, scale=0.5),
        normal(F, scale=0.1),
        normal(H) - 2,
        np.log(rng.uniform(0.5, 16, H)).astype(np.float32),
        normal(H),
    ]


@pytest.mark.parametrize("shape", SHAPES)
def test_closed_form_is_the_recurrence(shape):
    xbc, dt, conv_state, ssm_state, conv_weight, conv_bias, dt_bias, a_log, d = map(
        torch.from_numpy, example(*shape)
    )
    G, W, L, B = shape[4], shape[6], shape[1], shape[0]
    (activated,) = mamba_conv(xbc, conv_state, conv_weight, conv_bias, W=W)
    want_y, want_state = mamba_scan_recurrent(activated, dt, ssm_state, dt_bias, a_log, d, G=G)
    (y,) = mamba_scan(activated, dt, ssm_state, dt_bias, a_log, d, G=G)
    assert_close(y, want_y, tolerances.SCAN, "y")
    everything = torch.full((B,), L, dtype=torch.int32)
    _, state = mamba_advance(xbc, activated, dt, conv_state, ssm_state, dt_bias, a_log, everything, G=G)
    assert_close(state, want_state, tolerances.SCAN, "state")


@pytest.mark.parametrize("shape", SHAPES)
def test_scan_body_equals_naive(shape):
    inputs, attributes = example(*shape), {"G": shape[4], "W": shape[6]}
    want = mamba_block_scan(*map(torch.from_numpy, inputs), **attributes)
    got = run_body(MAMBA_BLOCK_SCAN, inputs, attributes)
    for spec, a, b in zip(MAMBA_BLOCK_SCAN.outputs, got, want, strict=True):
        assert_close(a, b, tolerances.SCAN, spec.name)


@pytest.mark.parametrize("shape", SHAPES)
def test_advance_body_equals_naive_for_every_count(shape):
    B, L, _, _, G, _, W = shape
    xbc, dt, conv_state, ssm_state, conv_weight, conv_bias, dt_bias, a_log, _ = example(*shape)
    (activated,) = mamba_conv(*map(torch.from_numpy, (xbc, conv_state, conv_weight, conv_bias)), W=W)
    for first in sorted({0, 1, min(2, L), L // 2, L}):
        commit_len = np.array([first, L - first][:B], np.int32)
        inputs = [xbc, activated.numpy(), dt, conv_state, ssm_state, dt_bias, a_log, commit_len]
        want = mamba_advance(*map(torch.from_numpy, inputs), G=G)
        got = run_body(MAMBA_ADVANCE, inputs, {"G": G})
        for spec, a, b in zip(MAMBA_ADVANCE.outputs, got, want, strict=True):
            assert_close(a, b, tolerances.SCAN, f"{spec.name} after {commit_len}")


@pytest.mark.parametrize("shape", SHAPES[1:])
def test_advancing_by_n_is_reading_n_tokens(shape):
    """State after committing n of L equals the state after a block of exactly those n tokens; 0 changes
    nothing.
    """
    B, L, _, _, G, _, W = shape
    arrays = example(*shape)
    xbc, dt, conv_state, ssm_state, conv_weight, conv_bias, dt_bias, a_log, _ = map(torch.from_numpy, arrays)
    (activated,) = mamba_conv(xbc, conv_state, conv_weight, conv_bias, W=W)
    for n in {0, 1, L // 2, L}:
        count = torch.full((B,), n, dtype=torch.int32)
        conv, ssm = mamba_advance(xbc, activated, dt, conv_state, ssm_state, dt_bias, a_log, count, G=G)
        short = (xbc[:, :n], activated[:, :n], dt[:, :n])
        if n == 0:
            assert_close(conv, conv_state, 0.0, "conv state after 0 tokens")
            assert_close(ssm, ssm_state, 0.0, "scan state after 0 tokens")
        else:
            want_conv, want_ssm = mamba_advance(*short, conv_state, ssm_state, dt_bias, a_log, count, G=G)
            assert_close(conv, want_conv, 0.0, f"conv state after {n}")
            assert_close(ssm, want_ssm, tolerances.SCAN, f"scan state after {n}")


def test_strong_decay_does_not_overflow():
    """dt·A of −1000 a token: the masked half of the decay matrix must not become inf·0."""
    arrays = example(1, 64, 2, 4, 1, 3, 4)
    arrays[1][:] = 60.0
    y, _ = mamba_block_scan(*map(torch.from_numpy, arrays), G=1, W=4)
    assert torch.isfinite(y).all()
    got, _ = run_body(MAMBA_BLOCK_SCAN, arrays, {"G": 1, "W": 4})
    assert np.isfinite(got).all()
