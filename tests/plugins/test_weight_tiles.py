"""Expert weights in square tiles: the kernels give the same bits as of rows."""

import pytest
import torch

from tests.plugins.test_kernel_moe import routed
from tests.support.kernels import run_guarded
from tests.support.stored_experts import EIGHT_BITS, FOUR_BITS, store
from ttc.errors import InputError
from ttc.plugins.kernels import KERNELS
from ttc.plugins.mamba_block_scan import MAMBA_CONV
from ttc.plugins.moe_experts import MOE_DOWN, MOE_UP
from ttc.plugins.moe_experts_blocked import MOE_DOWN_BLOCKED, MOE_UP_BLOCKED
from ttc.plugins.moe_experts_scaled import MOE_DOWN_SCALED, MOE_UP_SCALED
from ttc.plugins.triton import run_triton
from ttc.plugins.weight_tiles import in_rows, in_tiles, tile_side


@pytest.mark.parametrize(
    ("rows", "columns", "bits", "side"),
    [
        (1856, 2688, 16, 64),
        (2688, 1856, 4, 64),
        (48, 64, 16, 16),
        (48, 64, 8, 16),
        (48, 64, 4, None),
        (96, 64, 4, 32),
        (40, 48, 32, None),
    ],
)
def test_sides(rows, columns, bits, side):
    assert tile_side(rows, columns, bits) == side


@pytest.mark.parametrize("dtype", ["float32", "bfloat16", "int8", "float8_e4m3fn", "uint8"])
@pytest.mark.parametrize("shape", [(3, 128, 192), (2, 64, 64), (2, 96, 32)], ids=str)
def test_there_and_back(shape, dtype):
    """In the same memory; the tile (1, 2) of an expert is one stretch of it."""
    random = torch.Generator().manual_seed(3)
    stack = torch.randint(0, 100, shape, generator=random).to(torch.int8)
    stack = stack.view(torch.uint8) if dtype == "uint8" else stack.to(getattr(torch, dtype))
    before, start = stack.clone(), stack.data_ptr()
    tiled = in_tiles(stack)
    assert tiled.dim() == 5
    assert tiled.data_ptr() == start
    assert tiled.is_contiguous()
    assert torch.equal(in_rows(tiled).float(), before.float())
    side, width = tiled.shape[-2:]
    if shape[1] >= 2 * side and shape[2] >= 3 * width:
        assert torch.equal(tiled[1, 1, 2].float(), before[1, side : 2 * side, 2 * width : 3 * width].float())


def test_what_fills_no_tiles_stays():
    stack = torch.arange(2 * 40 * 48.0).view(2, 40, 48)
    assert in_tiles(stack) is stack


# Format → up and down.
OPS = {
    "plain": (MOE_UP, MOE_DOWN),
    **dict.fromkeys(EIGHT_BITS, (MOE_UP_SCALED, MOE_DOWN_SCALED)),
    **dict.fromkeys(FOUR_BITS, (MOE_UP_BLOCKED, MOE_DOWN_BLOCKED)),
}


@pytest.mark.parametrize("kind", OPS)
@pytest.mark.parametrize(("tokens", "shape"), [(1, (64, 192)), (18, (64, 160)), (5, (128, 64))], ids=str)
def test_products(device, tokens, shape, kind):
    """Of tiles of 64 and of 32; at the last shape with every choice of block sizes, some of which end within
    a tile.
    """
    x, up, down, ids, _, pairs, _, offsets = routed(tokens, *shape, 3, 2, "float32")
    hidden = torch.randn(tokens * 2, shape[1], generator=torch.Generator().manual_seed(1))
    for op, rows, stack in zip(OPS[kind], (x, hidden), (up, down), strict=True):
        weights, *scales = [stack] if kind == "plain" else store(stack, kind).tensors
        tiled = in_tiles(weights.clone())
        assert tiled.shape[-2] == (32 if 160 in shape else 64)
        for tile in range(len(KERNELS[op.name].tiles)) if 128 in shape else (None,):
            got, want = (
                run_guarded(op, [rows, each, *scales, ids, pairs, offsets], device, tile=tile)[0]
                for each in (tiled, weights)
            )
            assert torch.equal(got, want), f"tile {tile}"


def test_what_no_kernel_reads_in_tiles(device):
    inputs = [torch.zeros(1, 1, 1, 16, 16, device=device) for _ in MAMBA_CONV.inputs]
    with pytest.raises(InputError, match=r"xbc.* in tiles, but no kernel of it reads anything so"):
        run_triton(MAMBA_CONV, *inputs, W=4)
