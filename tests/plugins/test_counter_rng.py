"""The generator: same integers everywhere, and good enough to sample with."""

import numpy as np
import torch
from hypothesis import given
from hypothesis import strategies as st

from ttc.plugins import counter_rng

V = 4096


KEY = counter_rng.row_key(0, 0)


def block(key=KEY, positions=64, step=0, vocabulary=V):
    position = np.arange(positions, dtype=np.int64)[:, None]
    return counter_rng.uniform(
        np.int64(key), position, np.int64(step), np.arange(vocabulary, dtype=np.int64)[None]
    )


def test_golden_values():
    """The numbers are part of the interface: a seed given to a user must mean the same tokens tomorrow."""
    assert counter_rng.row_key(0, 0) == 967822498
    assert counter_rng.row_key(1234, 5) == 1071176006
    assert counter_rng.uniform(counter_rng.row_key(0, 0), 7, 3, 42) * 2**23 == 560504.5


@given(
    st.integers(0, 2**63 - 1),
    st.integers(0, 64),
    st.integers(0, 2**20),
    st.integers(0, 512),
    st.integers(0, 2**17),
)
def test_python_numpy_and_torch_agree(seed, row, position, step, vocabulary_id):
    key = counter_rng.row_key(seed, row)
    assert 0 <= key < counter_rng.MODULUS
    plain = counter_rng.uniform(key, position, step, vocabulary_id)
    numpy = counter_rng.uniform(*(np.array([x], np.int64) for x in (key, position, step, vocabulary_id)))
    tensor = counter_rng.uniform(*(torch.tensor([x]) for x in (key, position, step, vocabulary_id)))
    assert plain == numpy[0] == tensor.double().item()
    assert 0 < plain < 1
    assert np.float32(plain) == plain, "exact in float32"


def chi_square_z(samples, bins):
    counts, _ = np.histogram(samples, bins=bins, range=(0, 1))
    expected = samples.size / bins
    return (((counts - expected) ** 2 / expected).sum() - (bins - 1)) / np.sqrt(2 * (bins - 1))


def test_uniform_and_uncorrelated_along_every_counter():
    u = block()
    assert abs(chi_square_z(u, 256)) < 4
    scale = np.sqrt(u.size)
    for lag in (1, 2, 3, 7, 16, 64):
        assert abs(np.corrcoef(u[:, :-lag].ravel(), u[:, lag:].ravel())[0, 1]) * scale < 5, (
            f"vocabulary lag {lag}"
        )
    assert abs(np.corrcoef(u[:-1].ravel(), u[1:].ravel())[0, 1]) * scale < 5, "positions"
    assert abs(np.corrcoef(u.ravel(), block(step=1).ravel())[0, 1]) * scale < 5, "steps"
    other = block(key=counter_rng.row_key(0, 1))
    assert abs(np.corrcoef(u.ravel(), other.ravel())[0, 1]) * scale < 5, "rows"
    seeds = np.array([counter_rng.row_key(seed, 0) for seed in range(20000)], np.int64)
    assert abs(chi_square_z(counter_rng.uniform(seeds, 5, 1, 7), 64)) < 4, "seeds"


def test_gumbel_max_draws_from_the_distribution():
    """10,000 draws from a known distribution over 8 tokens pass a chi-square test."""
    p = np.array([0.4, 0.25, 0.15, 0.1, 0.05, 0.03, 0.015, 0.005])
    u = block(positions=10000, vocabulary=8)
    drawn = (np.log(p) - np.log(-np.log(u))).argmax(-1)
    counts = np.bincount(drawn, minlength=8)
    chi = ((counts - 10000 * p) ** 2 / (10000 * p)).sum()
    assert chi < 24.3, f"chi-square {chi:.1f} at 7 degrees of freedom (p = 0.001 is 24.3)"
