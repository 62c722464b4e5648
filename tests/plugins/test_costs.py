"""The cost formulas against counts made in other ways."""

import numpy as np
import pytest
import torch
from torch.utils.flop_counter import FlopCounterMode

from tests.support.golden import golden
from ttc.model.mixers import attention
from ttc.plugins.costs import Cost, attention_cost, experts_read, linear_cost, op_cost
from ttc.plugins.naive import run_naive
from ttc.plugins.table import OPS, OPS_BY_NAME

DIMS = {
    "B": 2,
    "L": 3,
    "H": 4,
    "P": 5,
    "G": 2,
    "N": 6,
    "W": 4,
    "F": 44,
    "M": 20,
    "S": 9,
    "Q": 12,
    "A": 4,
    "X": 2,
    "R": 9,
    "U": 11,
    "Z": 16,
    "O": 3,
    "J": 2,
    "Y": 3,
    "C": 10,
    "D": 8,
    "I": 7,
    "E": 16,
    "K": 3,
    "V": 50,
}


def counted(run) -> int:
    with FlopCounterMode(display=False) as counter:
        run()
    return counter.get_total_flops()


@pytest.mark.parametrize("op", OPS, ids=lambda op: op.name)
def test_every_op_has_a_cost_that_grows_with_the_batch(op):
    small, large = (op_cost(op, DIMS | {"B": b}, 4) for b in (1, 4))
    assert 0 < small.flops < large.flops
    assert 0 < small.bytes < large.bytes


def test_bytes_are_those_of_the_tensors():
    B, L, F, W = 2, 3, 44, 4
    tensors = [np.zeros(s, np.float16) for s in ((B, L, F), (B, F, W - 1), (F, 1, W), (F,), (B, L, F))]
    assert op_cost(OPS_BY_NAME["MambaConv"], DIMS, 2).bytes == sum(tensor.nbytes for tensor in tensors)


def test_an_op_costs_what_its_parts_cost():
    whole = op_cost(OPS_BY_NAME["MoeExperts"], DIMS, 2)
    parts = [op_cost(OPS_BY_NAME[name], DIMS, 2) for name in ("MoeUp", "MoeDown", "MoeCombine")]
    assert whole == parts[0] + parts[1] + parts[2]


def test_experts_read_is_the_mean_of_draws():
    draw = np.random.default_rng(0)
    counts = [len({int(e) for _ in range(5) for e in draw.permutation(16)[:3]}) for _ in range(4000)]
    assert experts_read(16, 3, 5) == pytest.approx(np.mean(counts), abs=0.1)
    up = OPS_BY_NAME["MoeUp"]
    assert op_cost(up, DIMS, 4, experts=16).bytes > op_cost(up, DIMS, 4).bytes


def test_attention_and_linear_against_torch_counting():
    config = golden("tiny_a").config
    B, L, C, D = 2, 7, 24, config.hidden_size
    heads, kv, P = config.num_attention_heads, config.num_key_value_heads, config.head_dim
    w = {
        "mixer.q_proj.weight": torch.ones(heads * P, D),
        "mixer.k_proj.weight": torch.ones(kv * P, D),
        "mixer.v_proj.weight": torch.ones(kv * P, D),
        "mixer.o_proj.weight": torch.ones(D, heads * P),
    }
    cache = torch.zeros(B, kv, C, P)
    lengths = torch.full((B,), C, dtype=torch.int32)
    h, state = torch.ones(B, L, D), (cache, cache)
    found = counted(lambda: attention(config, w, run_naive, h, state, lengths, causal=False))
    projections = [linear_cost(B * L, D, n, 4) for n in (heads * P, kv * P, kv * P)]
    projections.append(linear_cost(B * L, heads * P, D, 4))
    products = 4 * B * heads * L * (C + L) * P
    assert found == sum(cost.flops for cost in projections) + products
    cost = attention_cost(B, L, C, heads, kv, P, 4)
    assert products < cost.flops < 1.5 * products  # the softmax comes on top


def test_expert_products_against_torch_counting():
    config = golden("tiny_a").config
    T, K, E, D = 6, config.num_experts_per_tok, config.n_routed_experts, config.hidden_size
    I = config.moe_intermediate_size  # noqa: E741 - the letter of the signatures
    dims = {"T": T, "K": K, "E": E, "D": D, "I": I}
    up, down = torch.ones(E, I, D), torch.ones(E, D, I)
    routed = run_naive(
        OPS_BY_NAME["MoeRouting"],
        torch.randn(T, E, generator=torch.Generator().manual_seed(0)),
        torch.zeros(E),
        K=K,
        n_group=1,
        topk_group=1,
        norm_topk_prob=1,
        routed_scaling_factor=1.0,
    )
    found = counted(lambda: run_naive(OPS_BY_NAME["MoeExperts"], torch.ones(T, D), up, down, *routed))
    assert found == 4 * T * K * I * D
    assert 1.0 < op_cost(OPS_BY_NAME["MoeExperts"], dims, 4).flops / found < 1.2


def test_the_longer_limit_counts():
    assert Cost(flops=100, bytes=10).seconds_at_least(10, 10) == 10
    assert Cost(flops=10, bytes=100).seconds_at_least(10, 1) == 100
