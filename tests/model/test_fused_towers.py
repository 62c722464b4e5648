"""The towers by ops of several parts are the towers."""

import pytest
import torch

from tests.model.test_towers import ints
from tests.support.golden import CHECKPOINTS, golden
from ttc.model import fused_towers, towers
from ttc.model.bundle import Bundle
from ttc.model.graphs import layer_state
from ttc.model.towers import TowerWeights
from ttc.model.weights import CONTEXT, DENOISER
from ttc.plugins.naive import run_naive


def empty_state(config, dtype):
    sizes = {"B": 2, "C": 16}
    return [
        tuple(
            torch.zeros(each.sizes(sizes), dtype=getattr(torch, each.dtype_in(dtype)))
            for each in layer_state(config, kind)
        )
        for kind in config.layers
    ]


def assert_same(one, other):
    """Of tensors, and of lists of them."""
    if isinstance(one, torch.Tensor):
        assert torch.equal(one, other)
        return
    for a, b in zip(one, other, strict=True):
        assert_same(a, b)


@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
@pytest.mark.parametrize("name", CHECKPOINTS)
def test_bit_for_bit(bundles, name, dtype):
    """Both towers, every layer's stream; of two rows one commits nothing, and one is not conditioned."""
    config = golden(name).config
    with Bundle.open(bundles(name)) as bundle:
        weights = {key: torch.from_numpy(bundle.read_weight(key).copy()) for key in bundle.weights}
    weights = {
        key: each if ".gate." in key else each.to(getattr(torch, dtype)) for key, each in weights.items()
    }
    random = torch.Generator().manual_seed(1)
    ids = torch.randint(5, config.vocab_size, (2, 9), generator=random, dtype=torch.int32)
    positions, state = torch.tensor([[8, 2], [0, 4]], dtype=torch.int32), empty_state(config, dtype)
    context = TowerWeights.of(config, CONTEXT, weights)
    found = []
    for module in (towers, fused_towers):
        streams = []
        logits, *states = module.context_forward(
            config,
            context,
            run_naive,
            ids,
            ints(0, 0),
            ints(9, 0),
            positions,
            state,
            record=lambda i, x, streams=streams: streams.append(x),
        )
        found.append((logits.float(), *states, streams))
    assert_same(*found)
    nothing, *states = fused_towers.context_forward(
        config, context, run_naive, ids, ints(0, 0), ints(9, 0), None, state
    )
    assert nothing is None
    assert_same(states, found[0][1:3])

    denoiser, state = TowerWeights.of(config, DENOISER, weights), found[0][1]
    found = []
    for module in (towers, fused_towers):
        streams = []
        logits = module.denoiser_forward(
            config,
            denoiser,
            run_naive,
            ids,
            torch.tensor([-1.0, 0.5]),
            ints(9, 0),
            state,
            record=lambda i, x, streams=streams: streams.append(x),
        )
        found.append((logits.float(), streams))
    assert_same(*found)
