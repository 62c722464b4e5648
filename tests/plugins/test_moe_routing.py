import os

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from tests.support import tolerances
from tests.support.compare import assert_close, assert_equal
from tests.support.golden import golden
from tests.support.single_op import run_body
from ttc.plugins.moe_routing import MOE_ROUTING
from ttc.plugins.moe_routing.naive import moe_routing
from ttc.plugins.triton import run_triton

UNITS = golden("units")
ROUTERS = list(UNITS.cases_of("router/"))


def attributes(E, K, n_group=1, topk_group=1, norm=1, scale=2.5):
    return {
        "K": K,
        "n_group": n_group,
        "topk_group": topk_group,
        "norm_topk_prob": norm,
        "routed_scaling_factor": scale,
    }


def check_grouping(expert_ids, pairs, rows, offsets, E):
    """The permutation, its inverse and the offsets group the pairs by expert, in order inside each."""
    flat = np.asarray(expert_ids).reshape(-1)
    assert_equal(pairs, np.argsort(flat, kind="stable"), "grouped_pairs")
    assert_equal(
        np.asarray(pairs)[np.asarray(rows).reshape(-1)],
        np.arange(flat.size),
        "grouped_rows inverts grouped_pairs",
    )
    assert_equal(offsets, np.concatenate([[0], np.bincount(flat, minlength=E).cumsum()]), "expert_offsets")


def choice_rank(logits, bias, case, ids):
    """Choice scores of the chosen experts, 0 outside the kept groups, best first."""
    choice = 1 / (1 + np.exp(-logits)) + bias
    groups = choice.reshape(len(choice), case["n_group"], -1)
    best = np.argsort(-np.sort(groups, -1)[..., -2:].sum(-1), axis=1)[:, : case["topk_group"]]
    kept = np.zeros(groups.shape[:2], bool)
    np.put_along_axis(kept, best, True, 1)
    limited = np.where(kept[..., None], groups, 0.0).reshape(choice.shape)
    return -np.sort(-np.take_along_axis(limited, ids, 1), axis=1)


@pytest.mark.parametrize("name", ROUTERS)
@pytest.mark.parametrize("runner", ["naive", "body", "kernel"])
def test_recorded_router(name, runner):
    case, v = UNITS.cases[name], UNITS.vectors
    logits = (v[f"{name}/input"].astype(np.float64) @ v[f"{name}/weight"].astype(np.float64).T).astype(
        np.float32
    )
    bias = v[f"{name}/e_score_correction_bias"]
    E = bias.shape[0]
    attrs = attributes(
        E,
        case["num_experts_per_tok"],
        case["n_group"],
        case["topk_group"],
        int(case["norm_topk_prob"]),
        case["routed_scaling_factor"],
    )
    if runner == "naive":
        outputs = [t.numpy() for t in moe_routing(torch.from_numpy(logits), torch.from_numpy(bias), **attrs)]
    elif runner == "kernel":
        device = "cpu" if os.environ.get("TRITON_INTERPRET") == "1" else "cuda"
        tensors = [torch.from_numpy(array).to(device) for array in (logits, bias)]
        outputs = [t.cpu().numpy() for t in run_triton(MOE_ROUTING, *tensors, **attrs)]
    else:
        outputs = run_body(MOE_ROUTING, [logits, bias], attrs)
    expert_ids, weights, pairs, rows, offsets = outputs
    check_grouping(expert_ids, pairs, rows, offsets, E)
    order = np.argsort(expert_ids, axis=1)
    ids = np.take_along_axis(expert_ids, order, 1)
    if case.get("implementation_defined"):  # several excluded experts tie at 0: which of them wins is open
        assert_equal(
            choice_rank(logits, bias, case, ids),
            choice_rank(logits, bias, case, v[f"{name}/topk_indices"]),
            name,
        )
        return
    assert_equal(ids, v[f"{name}/topk_indices"], f"{name}: experts")
    got = np.take_along_axis(weights, order, 1)
    assert_close(got, v[f"{name}/topk_weights"], tolerances.ROUTER_WEIGHTS, f"{name}: weights")


@given(st.data())
def test_body_equals_naive_with_ties(data):
    E = data.draw(st.sampled_from([2, 4, 8, 16]))
    K = data.draw(st.integers(1, E))
    T = data.draw(st.integers(1, 9))
    n_group = data.draw(st.sampled_from([g for g in (1, 2, 4) if E // g >= 2]))
    attrs = attributes(E, K, n_group, data.draw(st.integers(1, n_group)), data.draw(st.integers(0, 1)), 1.5)
    seed = data.draw(st.integers(0, 2**32 - 1))
    rng = np.random.default_rng(seed)
    # Few distinct values: ties between experts, and between groups, are the rule.
    logits = rng.integers(-2, 3, (T, E)).astype(np.float32)
    bias = rng.integers(-1, 2, E).astype(np.float32)
    want = [t.numpy() for t in moe_routing(torch.from_numpy(logits), torch.from_numpy(bias), **attrs)]
    got = run_body(MOE_ROUTING, [logits, bias], attrs)
    check_grouping(want[0], want[2], want[3], want[4], E)
    for spec, a, b in zip(MOE_ROUTING.outputs, got, want, strict=True):
        if spec.dtype == "int32":
            assert_equal(a, b, spec.name)
        else:
            assert_close(a, b, tolerances.ROUTER_WEIGHTS, spec.name)


def test_lowest_id_wins_a_tie():
    logits = torch.zeros(1, 6)
    expert_ids, *_ = moe_routing(logits, torch.zeros(6), **attributes(6, 3))
    assert expert_ids.tolist() == [[0, 1, 2]]


def test_experts_outside_the_kept_groups_compete_with_zero():
    """All choice scores negative: an excluded expert's 0 beats them (the reference's rule, not −inf)."""
    bias = torch.tensor([-2.0, -2.0, -3.0, -3.0])
    expert_ids, *_ = moe_routing(torch.zeros(1, 4), bias, **attributes(4, 1, n_group=2))
    assert expert_ids.tolist() == [[2]]
