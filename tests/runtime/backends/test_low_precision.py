"""bf16 bundles: torch computes in bf16, ONNX Runtime in float32 with the time embedding's rounding kept."""

import logging

import numpy as np
import onnx_ir as ir
import pytest
from safetensors.numpy import load_file

import ttc
from tests.support import tolerances
from tests.support.compare import assert_close
from tests.support.golden import golden
from ttc.model.bundle import Bundle
from ttc.runtime.backends.onnxruntime.graphs import externalise_weights, upcast

G = golden("tiny_b")


@pytest.fixture(scope="module")
def recorded():
    return load_file(G.folder / "vectors_bf16.safetensors")


@pytest.mark.parametrize("backend", ["onnxruntime", "torch"])
def test_distances_to_the_recorded_bf16_run(engines, recorded, backend, record_property, capsys):
    """Informative: how far each backend is from the reference's bf16 run, next to how far float32 is from it.

    A flipped expert changes a row a lot, so means are compared, and only held to the order of magnitude.
    """
    engine, exact = engines("tiny_b", backend, None), engines("tiny_b", backend)
    distances = {"float32": [], "bfloat16": []}
    for name, case in G.cases_of("den/").items():
        if f"{name}/logits" not in recorded or case["B"] > 1 or "extended_by" in case:
            continue
        context, block = G.prompt(case)[0].tolist(), G.vectors[f"{name}/block"][0].tolist()
        t = None if case["t"] is None else case["t"][0]
        want = recorded[f"{name}/logits"][0]
        for label, loaded in (("bfloat16", engine), ("float32", exact)):
            distances[label].append(np.abs(loaded.denoiser_logits(context, block, t) - want).mean())
    mean = {label: float(np.mean(values)) for label, values in distances.items()}
    record_property("mean_distance", mean)
    with capsys.disabled():
        print(  # noqa: T201 - informative: the distances are what this test is for
            f"\n  {backend}: mean |denoiser logits − reference bf16|: bf16 bundle {mean['bfloat16']:.3f}, "
            f"float32 bundle {mean['float32']:.3f}"
        )
    assert np.isfinite(mean["bfloat16"])
    assert mean["bfloat16"] < 1.0, "of logits that spread over tens"


def test_conversion_is_logged_and_reported(bundles, caplog):
    with caplog.at_level(logging.WARNING), ttc.load(bundles("tiny_b", None)) as engine:
        result = engine.generate([1, 2, 3], max_new_tokens=2)
    note = "the bundle's bfloat16 graphs are computed in float32 by ONNX Runtime on cpu"
    assert note in result.stats.notes
    assert note in caplog.text


def test_upcast_leaves_no_low_precision_but_the_time_embeddings_rounding(bundles):
    with Bundle.open(bundles("tiny_b", None)) as bundle:
        for role in ("context", "denoiser", "advance", "step"):
            model = ir.load(bundle.graph_path(role))
            externalise_weights(model, bundle.weights)
            upcast(model)
            low = [
                node
                for node in model.graph.all_nodes()
                if any(value.dtype in (ir.DataType.BFLOAT16, ir.DataType.FLOAT16) for value in node.outputs)
            ]
            assert all((node.name or "").startswith("time/Cast") for node in low)
            assert (role == "denoiser") == bool(low), "only the denoiser has a time embedding"
            inputs = [*model.graph.inputs, *model.graph.initializers.values()]
            assert all(value.dtype != ir.DataType.BFLOAT16 for value in inputs)


def test_upcast_rounds_t_as_the_bf16_model_does(engines):
    """t = 15/16 becomes 936 after the factor in bf16, not 937.5: both backends must see the same t."""
    case = G.cases["den/few16_t0.3125_ctx70"]
    context, block = G.prompt(case)[0].tolist(), G.vectors["den/few16_t0.3125_ctx70/block"][0].tolist()
    bf16 = engines("tiny_b", "onnxruntime", None).denoiser_logits(context, block, 0.3125)
    float32 = engines("tiny_b", "onnxruntime").denoiser_logits(context, block, 0.3125)
    # 1000·t is 312.5 in float32 and 312 in bf16, so the float32 model at 0.312 is the closer one.
    at_312 = engines("tiny_b", "onnxruntime").denoiser_logits(context, block, 0.312)
    assert np.abs(bf16 - at_312).mean() < np.abs(bf16 - float32).mean()


def test_float16_bundle_runs(engines):
    """fp16: torch computes in it, ONNX Runtime on the CPU in float32 from fp16 weights."""
    context = G.vectors["prompt/p12"][0].tolist()
    want = engines("tiny_b", "onnxruntime").context_logits(context)
    for backend in ("onnxruntime", "torch"):
        got = engines("tiny_b", backend, "float16").context_logits(context)
        assert np.abs(got - want).mean() < 0.05, backend


def test_stored_bf16_weights_give_the_float32_goldens(engines):
    """dtype float32 over a checkpoint stored in bf16: the goldens' own setting."""
    ids = G.vectors["prompt/p12"][0].tolist()
    got = engines("tiny_b", "onnxruntime", "float32").context_logits(ids)
    assert_close(got, G.vectors["ctx/logits/p12"][0], tolerances.CONTEXT_LOGITS, "context logits")
