"""The towers with the kernels in place of the naive ops, against the reference's recorded logits."""

import pytest
import torch

from tests.model.test_towers import empty_state, ints
from tests.support import tolerances
from tests.support.compare import assert_close
from tests.support.golden import CHECKPOINTS, golden
from ttc.model import fused_towers
from ttc.model.bundle import Bundle
from ttc.model.config import LayerKind
from ttc.model.places import Dense, Pooled
from ttc.model.towers import TowerWeights
from ttc.model.weights import CONTEXT, DENOISER
from ttc.plugins.naive import run_naive
from ttc.plugins.triton import run_triton

# The interpreter takes its time: one checkpoint, and the denoiser alone. On a GPU all, and both towers.
ON_A_GPU = [pytest.param(name, marks=pytest.mark.gpu) for name in CHECKPOINTS if name != "tiny_c"]


def in_a_pool(config, state, length):
    """The state of one row as row 2 of a pool, its tokens in pages in reverse order; the rest is NaN."""
    pool, pages = [], 0
    for kind, tensors in zip(config.layers, state, strict=True):
        layer = []
        for x in tensors:
            if kind == LayerKind.MAMBA:
                rows = torch.full((4, *x.shape[1:]), torch.nan, dtype=x.dtype)
                rows[2] = x[0]
            else:
                _, J, C, Y = x.shape
                pages = C // 16
                rows = torch.full((pages + 2, J, 16, Y), torch.nan, dtype=x.dtype)
                rows[1:-1] = x[0].view(J, pages, 16, Y).transpose(0, 1).flip(0)
            layer.append(rows)
        pool.append(tuple(layer))
    table = torch.arange(pages, 0, -1, dtype=torch.int32)[None]
    return Pooled(torch.tensor([2], dtype=torch.int32), table, length), pool


@pytest.mark.slow
@pytest.mark.parametrize("pooled", [False, True])
@pytest.mark.parametrize("name", ["tiny_c", *ON_A_GPU])
def test_unconditioned_block_after_a_prompt(device, bundles, name, pooled):
    g = golden(name)
    read_with = run_naive if device == "cpu" else run_triton
    with Bundle.open(bundles(name)) as bundle:
        weights = {key: torch.from_numpy(bundle.read_weight(key).copy()).to(device) for key in bundle.weights}
    prompt = torch.from_numpy(g.vectors["prompt/p12"]).to(device)
    context = TowerWeights.of(g.config, CONTEXT, weights)
    empty = [tuple(tensor.to(device) for tensor in layer) for layer in empty_state(g.config)]
    nothing, everything = ints(0).to(device), ints(12).to(device)
    with torch.device(device):
        _, state, _ = fused_towers.context_forward(
            g.config, context, read_with, prompt, Dense(nothing), everything, ints(11).to(device)[None], empty
        )
        place, state = in_a_pool(g.config, state, everything) if pooled else (Dense(everything), state)
        block = torch.from_numpy(g.vectors["den/half16_tnone/block"]).to(device)
        logits = fused_towers.denoiser_forward(
            g.config,
            TowerWeights.of(g.config, DENOISER, weights),
            run_triton,
            block,
            torch.tensor([-1.0]),
            place,
            state,
        )
    want = g.vectors["den/half16_tnone/logits"]
    assert_close(logits.cpu(), want, tolerances.DENOISER_LOGITS, "logits")
