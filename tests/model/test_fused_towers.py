"""The towers by ops of several parts are the towers."""

from dataclasses import replace

import pytest
import torch

from tests.model.test_towers import ints
from tests.support.golden import CHECKPOINTS, golden
from ttc.model import fused_towers, towers
from ttc.model.bundle import Bundle
from ttc.model.config import LayerKind
from ttc.model.graphs import layer_state
from ttc.model.places import Dense, Pooled
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


@pytest.fixture(params=[True, False], ids=["long", "short"])
def length(request, monkeypatch):
    """Tokens of a block that counts as a long one, or does not."""
    monkeypatch.setattr(fused_towers, "_LONG", 9 if request.param else 10)
    return 9


@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
@pytest.mark.parametrize("name", CHECKPOINTS)
def test_bit_for_bit(bundles, name, dtype, length):
    """Both towers, every layer's stream; of two rows one commits nothing, and one is not conditioned."""
    config = golden(name).config
    with Bundle.open(bundles(name)) as bundle:
        weights = {key: torch.from_numpy(bundle.read_weight(key).copy()) for key in bundle.weights}
    weights = {
        key: each if ".gate." in key else each.to(getattr(torch, dtype)) for key, each in weights.items()
    }
    random = torch.Generator().manual_seed(1)
    ids = torch.randint(5, config.vocab_size, (2, length), generator=random, dtype=torch.int32)
    positions, state = torch.tensor([[8, 2], [0, 4]], dtype=torch.int32), empty_state(config, dtype)
    context = TowerWeights.of(config, CONTEXT, weights)
    found = []
    for module, where in ((towers, ints(0, 0)), (fused_towers, Dense(ints(0, 0)))):
        streams = []
        logits, *states = module.context_forward(
            config,
            context,
            run_naive,
            ids,
            where,
            ints(9, 0),
            positions,
            state,
            record=lambda i, x, streams=streams: streams.append(x),
        )
        found.append((logits.float(), *states, streams))
    assert_same(*found)
    nothing, *states = fused_towers.context_forward(
        config, context, run_naive, ids, Dense(ints(0, 0)), ints(9, 0), None, state
    )
    assert nothing is None
    assert_same(states, found[0][1:3])

    denoiser, state = TowerWeights.of(config, DENOISER, weights), found[0][1]
    found = []
    for module, where in ((towers, ints(9, 0)), (fused_towers, Dense(ints(9, 0)))):
        streams = []
        logits = module.denoiser_forward(
            config,
            denoiser,
            run_naive,
            ids,
            torch.tensor([-1.0, 0.5]),
            where,
            state,
            record=lambda i, x, streams=streams: streams.append(x),
        )
        found.append((logits.float(), streams))
    assert_same(*found)


def pooled(config, state, random, rows=5, pages=9):
    """A dense state (2 rows, 16 tokens of capacity) in a pool with garbage around it, and where it lies."""
    where = Pooled(ints(3, 1), torch.tensor([[4], [7]], dtype=torch.int32), ints(0, 0))
    pool = []
    for kind, tensors in zip(config.layers, state, strict=True):
        index = where.rows if kind == LayerKind.MAMBA else where.pages[:, 0]
        size = rows if kind == LayerKind.MAMBA else pages
        layer = tuple(torch.randn(size, *x.shape[1:], generator=random).to(x.dtype) for x in tensors)
        for all_rows, own in zip(layer, tensors, strict=True):
            all_rows[index.long()] = own
        pool.append(layer)
    return where, pool


@pytest.mark.parametrize("name", CHECKPOINTS)
def test_a_pool_is_as_good_as_tensors_of_its_own(bundles, name, length):
    """Both towers and the move of the state by a saved block, bit for bit; the rest of the pool stays."""
    config = golden(name).config
    with Bundle.open(bundles(name)) as bundle:
        weights = {key: torch.from_numpy(bundle.read_weight(key).copy()) for key in bundle.weights}
    random = torch.Generator().manual_seed(2)
    ids = torch.randint(5, config.vocab_size, (2, length), generator=random, dtype=torch.int32)
    state = empty_state(config, "float32")
    where, pool = pooled(config, state, random)
    context = TowerWeights.of(config, CONTEXT, weights)
    denoiser = TowerWeights.of(config, DENOISER, weights)
    t, commit_len, lengths = torch.tensor([-1.0, 0.5]), ints(9, 4), ints(9, 4)
    found = []
    for place, before in ((Dense(ints(0, 0)), state), (where, pool)):
        logits, after, saved = fused_towers.context_forward(
            config, context, run_naive, ids, place, commit_len, ints(8, 2)[:, None], before
        )
        moved = [
            fused_towers.advance_layer(config, w, run_naive, *kept, commit_len, place, own)
            for kind, w, kept, own in zip(config.layers, context.layers, saved, before, strict=True)
            if kind == LayerKind.MAMBA
        ]
        place, state_then = _after(config, place, before, after, lengths)
        read = fused_towers.denoiser_forward(config, denoiser, run_naive, ids, t, place, state_then)
        mambas = [tensors for kind, tensors in zip(config.layers, after, strict=True) if kind == "M"]
        assert_same(moved, mambas)
        found.append((logits, saved, mambas, read))
    assert_same(*found)


def _after(config, place, before, after, lengths):
    """The state with what a call gave, and where it lies; of pages, those that no row has are untouched."""
    if isinstance(place, Dense):
        return Dense(lengths), after
    state = []
    for kind, old, new in zip(config.layers, before, after, strict=True):
        if kind == LayerKind.MAMBA:
            new = tuple(x.index_copy(0, place.rows.long(), y) for x, y in zip(old, new, strict=True))
        for x, y in zip(old, new, strict=True):
            own = (place.rows if kind == LayerKind.MAMBA else place.pages[:, 0]).tolist()
            others = [i for i in range(len(x)) if i not in own]
            assert torch.equal(x[others], y[others])
        state.append(new)
    return replace(place, lengths=lengths), state
