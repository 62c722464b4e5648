"""The MoE kernels against the reference implementation: routing, grouped products, combination."""

from functools import partial

import pytest
import torch

from tests.support import tolerances
from tests.support.kernels import check_against_naive, check_outputs, run_guarded
from ttc.plugins.kernels import KERNELS
from ttc.plugins.launch import launches_of
from ttc.plugins.moe_experts import MOE_COMBINE, MOE_DOWN, MOE_EXPERTS, MOE_UP
from ttc.plugins.moe_routing import MOE_CHOICE, MOE_ORDER, MOE_ROUTING
from ttc.plugins.moe_routing.naive import moe_order, moe_routing
from ttc.plugins.naive import run_naive
from ttc.plugins.weight_tiles import in_tiles

DTYPES = ["float32", "float16", "bfloat16"]
ONE_TOKEN, ODD, MANY_GROUPS, REAL_EXPERTS, EVERYBODY = (
    (1, 8, 2, 1, 1),
    (17, 12, 3, 3, 2),
    (5, 16, 4, 8, 3),
    (33, 128, 6, 1, 1),
    (3, 6, 6, 1, 1),
)


def attributes(K, n_group=1, topk_group=1, norm=1, scale=2.5):
    return {
        "K": K,
        "n_group": n_group,
        "topk_group": topk_group,
        "norm_topk_prob": norm,
        "routed_scaling_factor": scale,
    }


PREFILL = pytest.param((2048, 128, 6, 1, 1), marks=pytest.mark.gpu)
SHAPES = [ONE_TOKEN, ODD, MANY_GROUPS, REAL_EXPERTS, EVERYBODY, PREFILL]


@pytest.mark.parametrize("values", ["random", "tied"])
@pytest.mark.parametrize("shape", SHAPES)
def test_routing(device, shape, values):
    """In one launch, however many tokens there are; by its parts; and as whoever calls it has it."""
    T, E, K, n_group, topk_group = shape
    random = torch.Generator().manual_seed(T * E)
    if values == "random":
        logits, bias = torch.randn(T, E, generator=random), torch.randn(E, generator=random)
    else:  # few distinct values: ties between experts and between groups are the rule
        logits = torch.randint(-2, 3, (T, E), generator=random).float()
        bias = torch.randint(-1, 2, (E,), generator=random).float()
    for op in (MOE_ROUTING, MOE_CHOICE):
        for tile in (None, *range(len(KERNELS[op.name].tiles))):
            chosen = attributes(K, n_group, topk_group, norm=(tile or 0) % 2)
            check_against_naive(op, [logits, bias], device, tolerances.ROUTER_WEIGHTS, tile=tile, **chosen)


def test_few_tokens_are_routed_in_one_launch():
    parts = [launches_of(MOE_ROUTING, {"T": T}, KERNELS) for T in (1, 32, 33, 2048)]
    assert parts == [("MoeRouting",)] * 2 + [("MoeChoice", "MoeOrder")] * 2


def choice_of(T, E, K, skewed):
    """T times K different experts; where skewed, the first ones nearly always."""
    random = torch.Generator().manual_seed(T * E + K)
    scores = torch.rand(T, E, generator=random) - (torch.arange(E) * 0.9 if skewed else 0)
    return scores.topk(K, dim=1).indices.int()


@pytest.mark.parametrize("skewed", [False, True])
@pytest.mark.parametrize("shape", [(1, 8, 2), (65, 12, 3), (150, 8, 8), (300, 100, 5)], ids=str)
def test_order(device, shape, skewed):
    """Over several programs, tokens and pairs that fill none of their tiles."""
    inputs = [choice_of(*shape, skewed), torch.zeros(shape[1])]
    for tile in range(len(KERNELS["MoeOrder"].tiles)):
        check_against_naive(MOE_ORDER, inputs, device, 0.0, tile=tile)


@pytest.mark.parametrize("value", [-1, 8, 31, 32, -(2**31), 2**31 - 1], ids=str)
def test_ids_that_no_choice_gives_lead_nowhere_outside(device, value):
    ids = choice_of(70, 8, 2, skewed=False)
    for wrong in (torch.full_like(ids, value), torch.where(ids == 3, value, ids), torch.zeros_like(ids)):
        run_guarded(MOE_ORDER, [wrong, torch.zeros(8)], device)


@pytest.mark.parametrize("n_group", [1, 4])
def test_routing_of_numbers_that_are_none(device, n_group):
    """NaN is the best of all scores, −inf scores 0, +inf 1; among equals the lowest id, as everywhere."""
    logits = torch.randn(6, 8, generator=torch.Generator().manual_seed(0))
    logits[0, 3] = logits[1, :] = float("nan")
    logits[2, 4] = logits[3, :] = -float("inf")
    logits[4, 1] = logits[5, :] = float("inf")
    bias = torch.tensor([0.0, -0.0, 0.5, -0.5, 0.0, -float("inf"), 0.25, 0.0])
    chosen = attributes(3, n_group, min(2, n_group))
    for op in (MOE_ROUTING, MOE_CHOICE):
        check_against_naive(op, [logits, bias], device, tolerances.ROUTER_WEIGHTS, **chosen)


def routed(T, D, width, E, K, dtype, logits=None, device="cpu"):
    """x, up, down and what routing gives; products of order one."""
    random = torch.Generator(device).manual_seed(T)

    def normal(*shape):
        return torch.randn(*shape, generator=random, device=device)

    kind = getattr(torch, dtype)
    x = normal(T, D).to(kind)
    up = (normal(E, width, D) / D**0.5).to(kind)
    down = (normal(E, D, width) / width**0.5).to(kind)
    logits = normal(T, E) if logits is None else logits
    return x, up, down, *moe_routing(logits, torch.zeros(E, device=device), **attributes(K))


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize(
    "shape", [(1, 24, 20, 4, 1), (1, 8, 6, 4, 4), (5, 72, 70, 4, 2), (40, 16, 33, 3, 2)], ids=str
)
def test_grouped_products(device, shape, dtype):
    x, up, down, expert_ids, weights, pairs, rows, offsets = routed(*shape, dtype)
    activated = run_naive(MOE_UP, x, up, expert_ids, pairs, offsets)[0]
    grouped = run_naive(MOE_DOWN, activated, down, expert_ids, pairs, offsets)[0]
    atol = tolerances.KERNEL[dtype]
    every = 1 if dtype == "float32" or device == "cuda" else 3  # the interpreter is slow
    for tile in range(0, len(KERNELS["MoeUp"].tiles), every):
        check_against_naive(MOE_UP, [x, up, expert_ids, pairs, offsets], device, atol, tile=tile)
        check_against_naive(MOE_DOWN, [activated, down, expert_ids, pairs, offsets], device, atol, tile=tile)
    for tile in range(len(KERNELS["MoeCombine"].tiles)):
        check_against_naive(MOE_COMBINE, [grouped, weights, rows], device, tolerances.OP, tile=tile)


def test_a_few_experts_with_many_rows_and_many_with_a_few(device):
    """Row tiles of every size at once, and experts with more rows than any."""
    rows = [150, 100, 70, 50, 35, 20, 12, 8, 5, 0]
    experts = torch.repeat_interleave(torch.arange(10), torch.tensor(rows))
    expert_ids = experts.view(3, 150).T.contiguous().int()  # an expert's pairs are of different tokens
    x, up, down, *_ = routed(150, 24, 20, 10, 3, "float32")
    pairs, _, offsets = moe_order(expert_ids, torch.zeros(10))
    assert offsets.diff().tolist() == rows
    activated = run_naive(MOE_UP, x, up, expert_ids, pairs, offsets)[0]
    several = [number for number, tile in enumerate(KERNELS["MoeUp"].tiles) if tile.blocks["SIZES"] > 1]
    for tile in (0, *several):
        check = partial(check_against_naive, device=device, atol=tolerances.KERNEL["float32"], tile=tile)
        check(MOE_UP, [x, up, expert_ids, pairs, offsets])
        check(MOE_DOWN, [activated, down, expert_ids, pairs, offsets])


def test_what_sizes_choose():
    """A program with rows for all that an expert may have; wide tiles for who can launch them."""
    up = KERNELS["MoeUp"]
    tokens = (1, 16, 17, 32, 33, 256, 257, 2048)
    dims = [{"T": T, "K": 6, "E": 128} for T in tokens]
    plain = [up.tiles[up.select_tile(each)].name for each in dims]
    assert plain == ["16x64x128"] * 2 + ["32x64x128"] * 2 + ["64x64x32"] * 4
    wide = [up.tiles[up.select_wide(each)] for each in dims]
    assert [tile.name for tile in wide] == [*plain[:4], "64x64x64", "64x64x64", "64x128x64", "128x128x64"]
    assert all(tile.wide == (T > 32) for tile, T in zip(wide, tokens, strict=True))


@pytest.mark.gpu
@pytest.mark.parametrize("T", [1, 16, 512])
def test_grouped_products_of_the_real_size(device, T):
    """Made on the GPU, and compared with the twin there, which computes once."""
    x, up, down, expert_ids, weights, pairs, rows, offsets = routed(
        T, 2688, 1856, 128, 6, "bfloat16", device=device
    )
    x *= 0.5  # relu² stays below ten
    near, inputs = tolerances.KERNEL["bfloat16"], [x, up, expert_ids, pairs, offsets]
    want = run_naive(MOE_UP, *inputs)
    for tile in range(len(KERNELS["MoeUp"].tiles)):
        check_outputs(MOE_UP, inputs, want, device, near, tile=tile)
    tiled = [x, in_tiles(up.clone()), expert_ids, pairs, offsets]
    check_outputs(MOE_UP, tiled, want, device, near)
    check_against_naive(MOE_EXPERTS, [x, up, down, expert_ids, weights, pairs, rows, offsets], device, near)


@pytest.mark.parametrize("T", [6, 35])
def test_all_tokens_to_one_expert(device, T):
    """The others are unused; with 35 tokens the one expert has more rows than a tile of 16 or 32."""
    logits = torch.full((T, 8), -5.0)
    logits[:, 3] = 5.0
    inputs = routed(T, 24, 20, 8, 1, "float32", logits)
    assert inputs[-1].tolist() == [0, 0, 0, 0, T, T, T, T, T]
    check_against_naive(MOE_EXPERTS, inputs, device, tolerances.KERNEL["float32"] * 2)


@pytest.mark.parametrize("value", [-1, -(2**31), 2**31 - 1, 10**6], ids=str)
def test_what_no_routing_gives_leads_nowhere_outside(device, value):
    """A builder that measures plugins fills their inputs with what it likes; only the bands are looked at."""
    x, up, down, expert_ids, weights, pairs, rows, offsets = routed(5, 24, 20, 8, 2, "float32")
    activated, grouped = torch.ones(10, 20), torch.ones(10, 24)
    wrong_pairs, wrong_rows = torch.full_like(pairs, value), torch.full_like(rows, value)
    run_guarded(MOE_UP, [x, up, expert_ids, wrong_pairs, offsets], device)
    one_token = [expert_ids[:1], pairs[:2], offsets]
    for wrong in (
        [torch.full_like(expert_ids[:1], value), *one_token[1:]],
        [expert_ids[:1], wrong_pairs[:2], offsets],
    ):
        run_guarded(MOE_UP, [x[:1], up, *wrong], device)
        run_guarded(MOE_DOWN, [activated[:2], down, *wrong], device)
    run_guarded(MOE_COMBINE, [grouped, weights, wrong_rows], device)
    for first in (0, value):  # experts that begin before the rows, end after them, or both
        wrong = torch.full_like(offsets, value)
        wrong[::2] = first
        run_guarded(MOE_UP, [x, up, expert_ids, pairs, wrong], device)
        run_guarded(MOE_DOWN, [activated, down, expert_ids, pairs, wrong], device)


def test_nan_stays_with_its_token(device):
    """And passes relu², as in torch."""
    inputs = list(routed(5, 24, 20, 8, 2, "float32"))
    inputs[0][2, 7] = float("nan")
    check_against_naive(MOE_EXPERTS, inputs, device, tolerances.KERNEL["float32"] * 2)
