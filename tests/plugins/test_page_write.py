"""A block's keys and values into pages: twin, body and kernel agree, and nothing else is written."""

import pytest
import torch

from tests.plugins.test_kernel_mamba import columns_of_a_matrix
from tests.support import tolerances
from tests.support.compare import assert_close
from tests.support.kernels import check_against_naive, guarded, run_guarded
from tests.support.single_op import run_body
from ttc.plugins.naive import run_naive
from ttc.plugins.page_write import PAGE_WRITE
from ttc.plugins.triton import run_triton

SHAPES = [  # B, L, KV heads, head dim, pages, tokens a page, pages a row
    (1, 1, 1, 8, 3, 16, 2),
    (3, 5, 2, 12, 20, 16, 4),
    (2, 33, 1, 128, 9, 16, 4),
    (2, 7, 2, 8, 2, 40, 1),  # a dense cache
    (1, 2048, 1, 8, 140, 16, 130),
]


def example(shape, lengths, dtype="float32"):
    """Rows' pages are not shared."""
    B, L, J, Y, U, Z, O = shape  # noqa: E741  # the letters of the signature
    random = torch.Generator().manual_seed(B * L)
    sizes = [(B, L, J * Y), (B, L, J * Y), (U, J, Z, Y), (U, J, Z, Y)]
    tensors = [torch.randn(*size, generator=random).to(getattr(torch, dtype)) for size in sizes]
    pages = torch.randperm(U, generator=random)[: B * O].int().view(B, O)
    return [*tensors, pages, torch.tensor(lengths[:B], dtype=torch.int32)]


def firsts(shape):
    """The first token, the end of a page, the last that leaves room, a middle."""
    _, L, *_, Z, O = shape  # noqa: E741
    return [0, min(Z - 1, Z * O - L), Z * O - L, (Z * O - L) // 2]


@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
@pytest.mark.parametrize("shape", SHAPES, ids=str)
def test_kernel_is_the_twin(device, shape, dtype):
    starts = firsts(shape)
    for turn in range(len(starts)):
        inputs = example(shape, starts[turn:] + starts[:turn], dtype)
        check_against_naive(PAGE_WRITE, inputs, device, 0.0)


def test_body_is_the_twin():
    inputs = example(SHAPES[1], [3, 30, 59])
    found = run_body(PAGE_WRITE, [tensor.numpy() for tensor in inputs], {})
    for got, want in zip(found, run_naive(PAGE_WRITE, *inputs), strict=True):
        assert_close(got, want, tolerances.OP, "body")


def test_token_by_token():
    B, L, J, Y, _, Z, _ = shape = SHAPES[1]
    inputs = example(shape, [3, 30, 59])
    keys, values, *pools, pages, lengths = inputs
    got = run_naive(PAGE_WRITE, *inputs)
    untouched = torch.ones(pools[0].shape[:3], dtype=torch.bool)
    for b in range(B):
        for token in range(L):
            position = int(lengths[b]) + token
            page, within = int(pages[b, position // Z]), position % Z
            for new, block in zip(got, (keys, values), strict=True):
                assert torch.equal(new[page, :, within], block[b, token].view(J, Y))
            untouched[page, :, within] = False
    for new, old in zip(got, pools, strict=True):
        assert torch.equal(new[untouched], old[untouched])


def test_over_the_pages_themselves(device):
    """And columns of a wider matrix: the same numbers, in the very tensors that were given."""
    inputs = [tensor.to(device) for tensor in example(SHAPES[1], [3, 30, 59])]
    keys, values, *pools, pages, lengths = inputs
    want = run_triton(PAGE_WRITE, *inputs)
    columns = columns_of_a_matrix([keys.cpu(), values.cpu()], device)
    got = run_triton(PAGE_WRITE, *columns, *pools, pages, lengths, out=pools)
    for new, wanted, pool in zip(got, want, pools, strict=True):
        assert new is pool
        assert torch.equal(new, wanted)


def test_what_has_no_page_is_left_out(device):
    """Before the first token, behind the table's end, and where the table names a page that there is not."""
    shape = (5, 4, 1, 8, 4, 16, 2)
    keys, values, *pools, _, _ = example((1, *shape[1:]), [0])
    pages = torch.tensor([[0, 1], [0, 1], [2, 4], [-1, 3], [0, 1]], dtype=torch.int32)
    lengths = torch.tensor([30, -2, 14, 14, 2**31 - 2], dtype=torch.int32)
    block = [x.expand(5, -1, -1) + torch.arange(5)[:, None, None] for x in (keys, values)]
    want = [pool.clone() for pool in pools]
    for b, token, page, within in (
        (0, 0, 1, 14),
        (0, 1, 1, 15),
        (1, 2, 0, 0),
        (1, 3, 0, 1),
        (2, 0, 2, 14),
        (2, 1, 2, 15),
        (3, 2, 3, 0),
        (3, 3, 3, 1),
    ):
        for pool, numbers in zip(want, block, strict=True):
            pool[page, 0, within] = numbers[b, token]
    got = run_guarded(PAGE_WRITE, [*block, *pools, pages, lengths], device)
    for new, wanted in zip(got, want, strict=True):
        assert torch.equal(new.cpu(), wanted)


def test_nothing_outside_of_the_pools_is_written_in_place(device):
    keys, values, *pools, pages, lengths = example(SHAPES[1], [3, 30, 59])
    placed = [guarded(pool.shape, pool.dtype, device) for pool in pools]
    for (view, _), pool in zip(placed, pools, strict=True):
        view.copy_(pool)
    own = [view for view, _ in placed]
    run_triton(
        PAGE_WRITE,
        *(x.to(device) for x in (keys, values)),
        *own,
        pages.to(device),
        lengths.to(device),
        out=own,
    )
    for (_, buffer), want in zip(
        placed, run_naive(PAGE_WRITE, keys, values, *pools, pages, lengths), strict=True
    ):
        assert torch.equal(buffer[64:-64].view(want.shape).cpu(), want)
        assert buffer[:64].isnan().all()
        assert buffer[-64:].isnan().all()
