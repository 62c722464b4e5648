"""The experts: body and reference implementation agree, for any routing."""

import numpy as np
import pytest
import torch

from tests.support import tolerances
from tests.support.compare import assert_close
from tests.support.single_op import run_body
from ttc.plugins.functions import function_body
from ttc.plugins.moe_experts import MOE_COMBINE, MOE_DOWN, MOE_EXPERTS, MOE_UP
from ttc.plugins.moe_experts.naive import moe_experts
from ttc.plugins.moe_routing.naive import moe_routing
from ttc.plugins.naive import run_naive

SHAPES = [  # tokens, hidden size, expert width, experts, experts per token
    (1, 8, 6, 4, 1),
    (1, 8, 6, 4, 4),
    (5, 12, 7, 8, 2),
    (17, 16, 9, 16, 6),
]


def example(T, D, width, E, K, logits=None, seed=0):
    rng = np.random.default_rng(seed)
    x, up = rng.standard_normal((T, D), np.float32), rng.standard_normal((E, width, D), np.float32) / D**0.5
    down = rng.standard_normal((E, D, width), np.float32) / width**0.5
    logits = rng.standard_normal((T, E), np.float32) if logits is None else logits
    routing = moe_routing(
        torch.from_numpy(logits),
        torch.zeros(E),
        K=K,
        n_group=1,
        topk_group=1,
        norm_topk_prob=1,
        routed_scaling_factor=2.5,
    )
    return [x, up, down, *(t.numpy() for t in routing)]


def by_definition(x, up, down, expert_ids, weights):
    out = np.zeros((x.shape[0], down.shape[1]))
    for t, (ids, row) in enumerate(zip(expert_ids, weights, strict=True)):
        for e, weight in zip(ids, row, strict=True):
            out[t] += weight * (down[e] @ np.maximum(up[e] @ x[t], 0) ** 2)
    return out


@pytest.mark.parametrize("shape", SHAPES)
def test_naive_and_body_are_the_definition(shape):
    inputs = example(*shape)
    want = by_definition(*inputs[:5])
    (naive,) = moe_experts(*map(torch.from_numpy, inputs))
    assert_close(naive, want, tolerances.OP * 10, "naive")
    (body,) = run_body(MOE_EXPERTS, inputs, {})
    assert_close(body, want, tolerances.OP * 10, "body")


def test_all_tokens_to_one_expert_and_unused_experts():
    logits = np.full((6, 8), -5.0, np.float32)
    logits[:, 3] = 5.0
    inputs = example(6, 8, 6, 8, 1, logits=logits)
    assert inputs[7].tolist() == [0, 0, 0, 0, 6, 6, 6, 6, 6]
    (body,) = run_body(MOE_EXPERTS, inputs, {})
    assert_close(body, by_definition(*inputs[:5]), tolerances.OP * 10, "body")


@pytest.mark.parametrize("op", [MOE_UP, MOE_DOWN, MOE_COMBINE], ids=lambda op: op.name)
def test_every_launch_has_a_body_of_its_own(op):
    x, up, down, expert_ids, weights, pairs, rows, offsets = example(5, 12, 7, 8, 2)
    activated = run_naive(MOE_UP, *map(torch.from_numpy, (x, up, expert_ids, pairs, offsets)))[0].numpy()
    grouped = run_naive(MOE_DOWN, *map(torch.from_numpy, (activated, down, expert_ids, pairs, offsets)))[
        0
    ].numpy()
    inputs = {
        "MoeUp": [x, up, expert_ids, pairs, offsets],
        "MoeDown": [activated, down, expert_ids, pairs, offsets],
        "MoeCombine": [grouped, weights, rows],
    }[op.name]
    (want,) = run_naive(op, *map(torch.from_numpy, inputs))
    (got,) = run_body(op, inputs, {})
    assert_close(got, want, tolerances.OP, op.name)


def test_body_copies_no_weights_per_token():
    """No Gather reads a weight input: what is picked is picked from activations."""
    for name, weight in (("MoeUp", "up"), ("MoeDown", "down")):
        readers = {
            node.op_type
            for node in function_body(name, {"K": 2, "E": 4, "I": 6, "D": 5})
            if weight in [value.name for value in node.inputs if value is not None]
        }
        assert readers == {"Transpose"}
