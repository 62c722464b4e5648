"""Attention over pages, and by parts of the context: twins, bodies and kernels agree, at any length."""

import pytest
import torch

from tests.plugins.test_block_attention import example as dense_example
from tests.support import tolerances
from tests.support.compare import assert_close
from tests.support.kernels import check_against_naive, run_guarded
from tests.support.sample import sample
from tests.support.single_op import run_body
from ttc.plugins.attention_splits import splits_of
from ttc.plugins.block_attention import ATTENTION_MERGE, BLOCK_ATTENTION, CACHE_SPLITS, SPLIT_ATTENTION
from ttc.plugins.kernels import KERNELS
from ttc.plugins.naive import run_naive
from ttc.plugins.paged_attention import PAGE_SPLITS, PAGED_ATTENTION, SPLIT_PAGED_ATTENTION
from ttc.plugins.triton import run_triton

SHAPES = [  # B, L, J, heads per KV head, head dim, capacity
    (1, 1, 1, 1, 8, 16),
    (3, 5, 2, 3, 12, 96),
    (1, 40, 1, 2, 16, 80),
    pytest.param((1, 16, 2, 16, 128, 2048), marks=pytest.mark.gpu),  # the real model's
    pytest.param((8, 1, 2, 16, 128, 8192), marks=pytest.mark.gpu),
    pytest.param((1, 2048, 2, 16, 128, 2048), marks=pytest.mark.gpu),
]
# Nothing, one token, around the end of a page and of a grain, all; and what no cache has.
LENGTHS = [0, 1, 15, 16, 17, 31, 32, 33, 65, 80]
IMPOSSIBLE = [-1, 81, 2**31 - 1]
BOTH = [0, 1]


def in_pages(inputs, seed=0):
    """The same context in pages of a pool, in any order, between pages of NaN; of the tables' numbers those
    that no token needs lead outside.
    """
    *own, keys, values, lengths = inputs
    B, J, C, Y = keys.shape
    per_row = C // 16
    order = torch.randperm(B * per_row + 3, generator=torch.Generator().manual_seed(seed))[: B * per_row]
    pool = []
    for cache in (keys, values):
        pages = torch.full((B * per_row + 3, J, 16, Y), torch.nan, dtype=cache.dtype)
        pages[order] = cache.view(B, J, per_row, 16, Y).transpose(1, 2).reshape(-1, J, 16, Y)
        pool.append(pages)
    return [*own, *pool, order.int().view(B, per_row), lengths]


def of_parts(inputs):
    """Without the block's keys and values."""
    return [inputs[0], *inputs[3:]]


def heads_of(shape):
    return shape[2] * shape[3]


@pytest.mark.parametrize("causal", BOTH)
@pytest.mark.parametrize("dtype", ["float32", "float16", "bfloat16"])
@pytest.mark.parametrize("shape", SHAPES, ids=str)
def test_kernels_are_the_twins(device, shape, dtype, causal):
    if device == "cpu" and dtype != "float32" and shape != SHAPES[1]:
        pytest.skip("one shape in the narrow dtypes is enough for the interpreter")
    dense, atol = dense_example(shape, dtype), tolerances.KERNEL[dtype]
    paged = in_pages(dense)
    for tile in range(len(KERNELS["PagedAttention"].tiles)):
        check_against_naive(PAGED_ATTENTION, paged, device, atol, tile=tile, causal=causal)
    counts = {"X": 2, "A": heads_of(shape)}
    check_against_naive(SPLIT_PAGED_ATTENTION, paged, device, atol, causal=causal, **counts)
    check_against_naive(SPLIT_ATTENTION, dense, device, atol, causal=causal, **counts)


@pytest.mark.parametrize("X", sample([1, 2, 5, 16], (1, 5)))
def test_parts_and_their_merge(device, X):
    """More parts than there are grains of tokens, too; every part and the merge for itself."""
    shape = (len(LENGTHS), 2, 2, 3, 12, 80)
    dense = dense_example(shape, lengths=LENGTHS)
    near, counts = tolerances.KERNEL["float32"], {"X": X, "A": heads_of(shape)}
    for tile in range(len(KERNELS["CacheSplits"].tiles)):
        check_against_naive(CACHE_SPLITS, of_parts(dense), device, near, tile=tile, **counts)
    check_against_naive(PAGE_SPLITS, of_parts(in_pages(dense)), device, near, **counts)
    parts = run_naive(CACHE_SPLITS, *of_parts(dense), **counts)
    for causal in BOTH:
        merging = [*dense[:3], *parts]
        check_against_naive(ATTENTION_MERGE, merging, device, near, causal=causal)
        want = run_naive(BLOCK_ATTENTION, *dense, causal=causal)[0]
        assert_close(run_naive(ATTENTION_MERGE, *merging, causal=causal)[0], want, tolerances.OP, "twins")


def test_parts_are_even(device):
    """Of the row's own length, in grains of 32 tokens, however large the cache is."""
    shape = (3, 1, 1, 1, 8, 320)
    inputs = of_parts(dense_example(shape, lengths=[256, 70, 0]))
    lse = run_guarded(CACHE_SPLITS, inputs, device, X=4, A=1)[1].cpu()[:, :, 0, 0]
    reached = [[True] * 4, [True, True, True, False], [False] * 4]
    assert (lse != -torch.inf).tolist() == reached


@pytest.mark.parametrize("L", [1, 17, pytest.param(33, marks=pytest.mark.full)])
def test_pages_are_a_cache_bit_for_bit(device, L):
    """Whatever the order of the pages, whatever lies in other pages, whatever numbers no length needs."""
    shape = (len(LENGTHS), L, 2, 2, 12, 80)
    dense = dense_example(shape, lengths=LENGTHS)
    for seed in range(2):
        paged = in_pages(dense, seed)
        used = (torch.tensor(LENGTHS) + 15) // 16
        for b, count in enumerate(used.tolist()):
            paged[5][b, count:] = torch.tensor([-7, 10**6, 0, 2**31 - 1, -(2**31)])[: 5 - count]
            last = paged[5][b, count - 1] if count else 0
            for pool in paged[3:5] if LENGTHS[b] % 16 else ():
                pool[last, :, LENGTHS[b] % 16 :] = torch.nan
        for pages_op, op, given, attributes in (
            (PAGED_ATTENTION, BLOCK_ATTENTION, slice(None), {"causal": 1}),
            (PAGE_SPLITS, CACHE_SPLITS, None, {"X": 3, "A": 4}),
        ):
            take = of_parts if given is None else list
            got = run_guarded(pages_op, take(paged), device, **attributes)
            want = run_guarded(op, take(dense), device, **attributes)
            for a, b in zip(got, want, strict=True):
                assert torch.equal(a, b), pages_op.name


def test_lengths_that_no_cache_has_lead_nowhere_outside(device):
    shape = (len(IMPOSSIBLE), 2, 1, 2, 8, 80)
    dense = dense_example(shape, lengths=IMPOSSIBLE)
    as_if = [*dense[:5], torch.tensor([0, 80, 80], dtype=torch.int32)]
    for op, inputs, attributes in (
        (PAGED_ATTENTION, in_pages, {"causal": 0}),
        (SPLIT_PAGED_ATTENTION, in_pages, {"causal": 0, "X": 2, "A": 2}),
        (SPLIT_ATTENTION, list, {"causal": 0, "X": 2, "A": 2}),
    ):
        got, want = (run_guarded(op, inputs(each), device, **attributes)[0] for each in (dense, as_if))
        assert torch.equal(got, want), op.name


def test_nan_of_a_token_that_counts_gets_through(device):
    shape = (2, 3, 1, 2, 8, 80)
    dense = dense_example(shape, lengths=[70, 70])
    dense[3][0, 0, 66] = torch.nan  # a key of the last part
    dense[4][1, 0, 3, 5] = torch.nan  # a column of a value of the first
    counts = {"X": 3, "A": 2}
    for op, inputs in ((SPLIT_ATTENTION, dense), (SPLIT_PAGED_ATTENTION, in_pages(dense))):
        got = run_guarded(op, inputs, device, causal=1, **counts)[0]
        assert got[0].isnan().all()
        assert got[1].isnan().sum() == 3 * 2, op.name
        assert got[1].view(3, 2, 8)[:, :, 5].isnan().all()


@pytest.mark.parametrize("causal", BOTH)
def test_bodies_are_the_twins(causal):
    shape = (2, 5, 2, 3, 12, 48)
    dense = dense_example(shape, lengths=[40, 0])
    paged = in_pages(dense)
    paged[3:5] = [pool.nan_to_num() for pool in paged[3:5]]
    counts = {"X": 3, "A": heads_of(shape)}
    merging = [*dense[:3], *run_naive(CACHE_SPLITS, *of_parts(dense), **counts)]
    for op, inputs, attributes in (
        (PAGED_ATTENTION, paged, {"causal": causal}),
        (SPLIT_ATTENTION, dense, {"causal": causal} | counts),
        (SPLIT_PAGED_ATTENTION, paged, {"causal": causal} | counts),
        (CACHE_SPLITS, of_parts(dense), counts),
        (PAGE_SPLITS, of_parts(paged), counts),
        (ATTENTION_MERGE, merging, {"causal": causal}),
    ):
        found = run_body(op, [tensor.numpy() for tensor in inputs], attributes)
        for spec, got, want in zip(op.outputs, found, run_naive(op, *inputs, **attributes), strict=True):
            near = torch.from_numpy(got).nan_to_num(), want.nan_to_num()  # −∞ is as far from itself as NaN
            assert_close(*near, tolerances.OP, f"{op.name}: {spec.name}")


def test_projections_are_read_where_one_product_left_them(device):
    *own, keys, values, lengths = (tensor.to(device) for tensor in dense_example((2, 5, 2, 4, 16, 48)))
    together = torch.cat(own, -1)
    columns = together.split([tensor.shape[-1] for tensor in own], -1)
    attributes = {"causal": 1, "X": 2, "A": 8}
    got = run_triton(SPLIT_ATTENTION, *columns, keys, values, lengths, **attributes)[0]
    assert torch.equal(got, run_triton(SPLIT_ATTENTION, *own, keys, values, lengths, **attributes)[0])


def test_how_many_parts():
    """At the real sizes, 32 query heads and 2 of keys and values, on 132 processors."""

    def parts(batch, tokens, capacity):
        return splits_of(batch, tokens, 32, 2, capacity)

    assert parts(1, 1, 131072) == 64, "128 programs"
    assert parts(1, 1, 2048) == 16, "128 tokens a part"
    assert parts(1, 1, 255) == 1, "too short"
    assert parts(1, 16, 2048) == 4
    assert parts(8, 1, 8192) == 8
    assert parts(8, 16, 8192) == parts(1, 2048, 8192) == parts(128, 1, 8192) == 1, "enough programs without"
    for batch in range(1, 80):
        for tokens in (1, 4, 16, 32):
            count = parts(batch, tokens, 131072)
            programs = 2 * batch * tokens * count
            assert programs <= 132 or count == 1
            assert 2 * programs > 132, "one more doubling would be too many"
