"""The torch towers against the reference's recorded internals."""

import numpy as np
import pytest
import torch

from tests.support import tolerances
from tests.support.compare import assert_close, assert_equal
from tests.support.golden import CHECKPOINTS, golden
from ttc.model import mixers, towers
from ttc.model.bundle import Bundle
from ttc.model.graphs import layer_state
from ttc.model.towers import TowerWeights
from ttc.model.weights import CONTEXT, DENOISER
from ttc.plugins.moe_routing import MOE_ROUTING
from ttc.plugins.naive import run_naive


@pytest.fixture(params=CHECKPOINTS)
def g(request):
    return golden(request.param)


@pytest.fixture
def weights(g, bundles):
    with Bundle.open(bundles(g.name)) as bundle:
        return {name: torch.from_numpy(bundle.read_weight(name).copy()) for name in bundle.weights}


def empty_state(config, capacity=64):
    sizes = {"B": 1, "C": capacity}
    return [
        tuple(torch.zeros(tensor.sizes(sizes)) for tensor in layer_state(config, kind))
        for kind in config.layers
    ]


def ints(*values):
    return torch.tensor(values, dtype=torch.int32)


def read(g, weights, prompt):
    """State after a prompt (1, S), and the residual stream after every layer."""
    tower = TowerWeights.of(g.config, CONTEXT, weights)
    L = prompt.shape[1]
    x = towers.embed(tower.embeddings, torch.from_numpy(prompt))
    state, streams = [], []
    for kind, w, before in zip(g.config.layers, tower.layers, empty_state(g.config), strict=True):
        x, after, _ = towers.context_layer(g.config, kind, w, run_naive, x, ints(0), ints(L), before)
        state.append(after)
        streams.append(x)
    return state, streams


def test_residual_stream_after_every_context_layer(g, weights):
    prompt = g.vectors["prompt/p12"]
    embedded = towers.embed(weights[f"{CONTEXT}.embeddings.weight"], torch.from_numpy(prompt))
    assert_close(embedded, g.vectors["ctx/embed/p12"], 0.0, "embedding")
    _, streams = read(g, weights, prompt)
    for i, x in enumerate(streams):
        assert_close(x, g.vectors[f"ctx/layer_out/p12/{i}"], tolerances.LAYERS, f"layer {i}")


def test_time_embedding(g, weights):
    v = g.vectors
    t = torch.from_numpy(v["temb/t"])
    assert_close(towers.time_sinusoid(t, torch.float32), v["temb/sincos"], tolerances.SINUSOID, "sinusoid")
    sinusoid = torch.from_numpy(v["temb/sincos"])
    hidden = torch.nn.functional.linear(
        sinusoid, weights["t_embedder.mlp.0.weight"], weights["t_embedder.mlp.0.bias"]
    )
    embedded = torch.nn.functional.linear(
        torch.nn.functional.silu(hidden), weights["t_embedder.mlp.2.weight"], weights["t_embedder.mlp.2.bias"]
    )
    assert_close(embedded, v["temb/t_embedder"], tolerances.TIME_EMBEDDING, "t_embedder")
    modulation = towers.time_embedding(g.config, weights, t, torch.float32)
    assert_close(modulation.flatten(1), v["temb/t_block"], tolerances.TIME_EMBEDDING, "t_block")
    for i in range(g.config.num_layers):
        with_table = modulation + weights[f"scale_shift_tables.{i}"]
        assert_close(with_table, v[f"temb/mod/{i}"], tolerances.TIME_EMBEDDING, f"modulation of layer {i}")


def test_time_sinusoid_in_bf16_rounds_as_the_reference_does():
    v = golden("units").vectors
    got = towers.time_sinusoid(torch.from_numpy(v["temb_bf16/t"]), torch.bfloat16)
    # One bf16 step near 1 is 2⁻⁸: sines of equal arguments may round to neighbours.
    assert_close(got.float(), v["temb_bf16/sincos"], 2**-8, "sinusoid in bf16")
    want = v["temb_f32/sincos"]
    got = towers.time_sinusoid(torch.from_numpy(v["temb_bf16/t"]), torch.float32)
    assert_close(got, want, tolerances.SINUSOID, "sinusoid in float32")
    assert np.abs(got.numpy() - v["temb_bf16/sincos"]).max() > 0.5, (
        "the two are far apart, so the rounding matters"
    )


def test_moe_layers(g, weights):
    kinds = [
        name.rsplit("/", 1)[0] for name in g.vectors if name.startswith("moe/") and name.endswith("/input")
    ]
    assert kinds
    for prefix in kinds:
        _, tower, layer = prefix.split("/")
        tower = CONTEXT if tower == "context" else DENOISER
        w = TowerWeights.of(g.config, tower, weights).layers[int(layer)]
        tokens = torch.from_numpy(g.vectors[f"{prefix}/input"])
        logits = torch.nn.functional.linear(tokens, w["mixer.gate.weight"])
        assert_close(
            logits.sigmoid(), g.vectors[f"{prefix}/scores"], tolerances.ROUTER_WEIGHTS, f"{prefix}: scores"
        )
        ids, routing_weights, *_ = run_naive(
            MOE_ROUTING,
            logits,
            w["mixer.gate.e_score_correction_bias"],
            K=g.config.num_experts_per_tok,
            n_group=g.config.n_group,
            topk_group=g.config.topk_group,
            norm_topk_prob=int(g.config.norm_topk_prob),
            routed_scaling_factor=g.config.routed_scaling_factor,
        )
        ids, order = ids.sort(dim=1)
        assert_equal(ids, g.vectors[f"{prefix}/topk_indices"], f"{prefix}: experts")
        assert_close(
            routing_weights.gather(1, order),
            g.vectors[f"{prefix}/topk_weights"],
            tolerances.ROUTER_WEIGHTS,
            f"{prefix}: weights",
        )
        routed, shared = mixers.mixture(g.config, w, run_naive, tokens[None])
        shared = shared[0]
        assert_close(shared, g.vectors[f"{prefix}/shared_out"], tolerances.MOE, f"{prefix}: shared expert")
        assert_close(routed[0] + shared, g.vectors[f"{prefix}/out"], tolerances.MOE, prefix)


@pytest.mark.parametrize("case_name", ["den/half16_t0.5", "den/batch2_diff_t"])
def test_denoiser_internals(g, weights, case_name):
    """The output of every mixer, with both norm orders among the kinds."""
    case, v = g.cases[case_name], g.vectors
    tower = TowerWeights.of(g.config, DENOISER, weights)
    for row in range(case["B"]):
        prompt = g.prompt(case)[row : row + 1]
        state, _ = read(g, weights, prompt)
        block, t = torch.from_numpy(v[f"{case_name}/block"][row : row + 1]), torch.tensor([case["t"][row]])
        x = towers.embed(tower.embeddings, block)
        modulation = towers.time_embedding(g.config, tower.time, t, x.dtype)
        for i, (kind, w, context) in enumerate(zip(g.config.layers, tower.layers, state, strict=True)):
            gate = (modulation + w["scale_shift_table"])[:, 2:3]
            after = towers.denoiser_layer(
                g.config, kind, w, run_naive, x, modulation, t, ints(prompt.shape[1]), context
            )
            want = v[f"{case_name}/mixer_out/{i}"][row : row + 1]
            assert_close(
                after - x, gate.numpy() * want, tolerances.DENOISER_LAYERS, f"row {row}, layer {i} ({kind})"
            )
            x = after
        assert_close(x, v[f"{case_name}/hidden_final"][row : row + 1], tolerances.DENOISER_LAYERS, "final")


def test_unconditioned_is_not_t_zero(g, weights):
    """A negative t means shift 0, scale 0, gate 1: not the same as t = 0, and equal to the recorded
    `tnone`.
    """
    tower = TowerWeights.of(g.config, DENOISER, weights)
    prompt = g.vectors["prompt/p12"]
    state, _ = read(g, weights, prompt)
    block = torch.from_numpy(g.vectors["den/half16_tnone/block"])
    logits = {
        t: towers.denoiser_forward(g.config, tower, run_naive, block, torch.tensor([t]), ints(12), state)
        for t in (-1.0, 0.0)
    }
    assert_close(
        logits[-1.0], g.vectors["den/half16_tnone/logits"], tolerances.DENOISER_LOGITS, "unconditioned"
    )
    assert (logits[-1.0] - logits[0.0]).abs().max() > 10 * tolerances.DENOISER_LOGITS
