"""`ttc verify` finds each of these faults, and says in which layer, of which kind."""

import pytest
import torch

from tests.support.faults import plant
from ttc.model import mixers, towers
from ttc.plugins.naive import run_naive
from ttc.plugins.residual_stream.naive import rms_norm
from ttc.verify.run import verify

# tiny_a is M E M * E M E.


@pytest.fixture
def faulty(bundles, tmp_path, monkeypatch):
    """`faulty(role, layer, name=replacement, …)`: tiny_a with functions of one layer's towers replaced."""

    def make(role, layer, **replacements):
        def patch():
            for name, function in replacements.items():
                monkeypatch.setattr(towers, name, function)

        made = plant(bundles("tiny_a"), tmp_path, role, layer, patch)
        monkeypatch.undo()
        return made

    return make


def the_finding(bundle):
    report = verify(bundle, ["onnxruntime"], prompts=[[5, 6, 7]], max_new_tokens=4, record=False)
    assert not report.passed
    finding = report.backends[0].finding
    assert finding is not None
    assert finding.distance > finding.tolerance / 10
    assert (finding.kind or "") in str(finding)
    return finding.tower, finding.layer, finding.kind, finding.tensor


def test_nothing_is_found_where_nothing_is_wrong(bundles, faulty):
    """The same surgery without a fault: what the tests below find is the fault, not the surgery."""
    report = verify(
        faulty("denoiser", 2), ["onnxruntime"], prompts=[[5]], max_new_tokens=4, record=False, layers=True
    )
    assert report.passed
    assert report.backends[0].finding is None


def test_wrong_norm_order(faulty):
    def norm_first(config, kind, w, run_op, x, modulation, t, lengths, state):
        shift, scale, gate = (modulation + w["scale_shift_table"]).chunk(3, dim=1)
        h = rms_norm(x, w["norm.weight"], config.layer_norm_epsilon) * (1 + scale) + shift
        return x + gate * mixers.mamba(config, w, run_op, h, state)[0]

    found = the_finding(faulty("denoiser", 2, denoiser_layer=norm_first))
    assert found == ("denoiser", 2, "Mamba-2", "residual")


def test_mask_in_block_attention(faulty):
    def causal(config, w, run_op, h, state, lengths, **_):
        # In plain torch: an op has one body in a graph, so this layer's cannot be causal.
        return mixers.attention(config, w, run_naive, h, state, lengths, causal=True)

    found = the_finding(faulty("denoiser", 3, attention=causal))
    assert found == ("denoiser", 3, "attention", "residual")


def test_unseeded_scan(faulty):
    def unseeded(config, w, run_op, h, state):
        return mixers.mamba(config, w, run_op, h, (state[0], state[1] * 0))

    found = the_finding(faulty("denoiser", 0, mamba=unseeded))
    assert found == ("denoiser", 0, "Mamba-2", "residual")


def test_route_without_bias(faulty):
    def unbiased(config, w, run_op, h):
        bias = "mixer.gate.e_score_correction_bias"
        return mixers.mixture(config, {**w, bias: w[bias] * 0}, run_op, h)

    found = the_finding(faulty("context", 4, mixture=unbiased))
    assert found == ("context", 4, "mixture of experts", "residual")


def test_swapped_experts(faulty):
    def swapped(config, w, run_op, h):
        up = w["mixer.experts.up_proj.weight"]
        exchanged = torch.cat([up[1:2], up[0:1], up[2:]])
        return mixers.mixture(config, {**w, "mixer.experts.up_proj.weight": exchanged}, run_op, h)

    found = the_finding(faulty("context", 1, mixture=swapped))
    assert found == ("context", 1, "mixture of experts", "residual")


def test_off_by_one_conv_state(faulty):
    def late(config, w, run_op, xbc, activated, dt, state, commit_len):
        conv, _ = mixers.advance(config, w, run_op, xbc, activated, dt, state, commit_len - 1)
        _, ssm = mixers.advance(config, w, run_op, xbc, activated, dt, state, commit_len)
        return conv, ssm

    found = the_finding(faulty("context", 2, advance=late))
    assert found == ("context", 2, "Mamba-2", "conv_state")


def test_stale_kv_length(faulty):
    def stale(config, w, run_op, h, state, lengths, *, causal):
        return mixers.attention(config, w, run_op, h, state, lengths - 1, causal=causal)

    found = the_finding(faulty("denoiser", 3, attention=stale))
    assert found == ("denoiser", 3, "attention", "residual")


def test_bfloat16_where_float32_is_due(faulty):
    def rounded(config, w, run_op, xbc, activated, dt, state, commit_len):
        conv, ssm = mixers.advance(config, w, run_op, xbc, activated, dt, state, commit_len)
        return conv, ssm.bfloat16().float()

    found = the_finding(faulty("context", 5, advance=rounded))
    assert found == ("context", 5, "Mamba-2", "ssm_state")
