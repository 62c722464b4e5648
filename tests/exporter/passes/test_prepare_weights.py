"""`prepare_weights`: what a network computes of a weight alone is computed once, and the numbers stay."""

import numpy as np
import onnx_ir as ir
import pytest

from tests.support.golden import golden
from tests.support.partitioned import feeds, run_whole
from tests.support.tolerances import OP
from ttc.exporter.passes.initializers_to_inputs import initializers_to_inputs
from ttc.exporter.passes.inline_composites import inline_composites
from ttc.exporter.passes.inline_ops import inline_ops
from ttc.exporter.passes.prepare_weights import prepare_weights
from ttc.formats.prepared_weights import PreparedWeight
from ttc.model.bundle import Bundle


@pytest.mark.parametrize("inline", [inline_composites, inline_ops])
@pytest.mark.parametrize("dtype", ["float32", "float16"])
@pytest.mark.parametrize("role", ["context", "denoiser"])
def test_the_network_computes_the_same(bundles, role, dtype, inline):
    """With the ops as plugins are given them, and with their bodies, which use A_log too."""
    path = bundles("tiny_a", dtype) / f"{role}.onnx"
    model = ir.load(path)
    initializers_to_inputs(model)
    inline(model)
    with Bundle.open(path.parent) as bundle:
        weights = {
            name: bundle.read_weight(name) for name, spec in bundle.weights.items() if role in spec.graphs
        }
    inputs = feeds(model.graph, weights, golden("tiny_a").config.vocab_size, seed=1)
    due = run_whole(model, inputs | weights, "DISABLE_ALL")

    assert prepare_weights(model)
    assert not prepare_weights(model), "a second run changes nothing"
    taken = [PreparedWeight.parse(v.name) for v in model.graph.inputs if v.metadata_props.get("ttc.kind")]
    prepared = {each.name: each.apply(weights[each.weight]) for each in taken if each.weight in weights}
    for value in model.graph.inputs:
        if value.name in prepared:
            assert tuple(value.shape) == prepared[value.name].shape
            assert value.dtype.numpy() == prepared[value.name].dtype
    got = run_whole(model, inputs | prepared, "DISABLE_ALL")
    assert got.keys() == due.keys()
    bodies = inline is inline_ops  # numpy's exp and ONNX Runtime's differ in the last bit
    for name in due:
        if bodies and due[name].dtype == np.float32:
            np.testing.assert_allclose(got[name], due[name], rtol=0, atol=OP, err_msg=name)
        elif not bodies:
            np.testing.assert_array_equal(got[name], due[name], err_msg=name)


@pytest.mark.parametrize("role", ["context", "denoiser"])
def test_nothing_is_done_to_a_weight_alone(bundles, role):
    model = ir.load(bundles("tiny_a", "bfloat16") / f"{role}.onnx")
    initializers_to_inputs(model)
    inline_ops(model)
    prepare_weights(model)
    names = {value.name.rpartition(".layers.")[2] for value in model.graph.inputs}
    assert any(name.endswith("in_proj.weight|transpose(1,0)") for name in names)
    assert any(name.endswith("norm.weight|float32") for name in names)
    assert any(name.endswith("A_log|float32|exp|neg") for name in names)
    weights = {v for v in model.graph.inputs if v.metadata_props.get("ttc.kind") == "weight"}
    alone = [node for node in model.graph if node.inputs and node.inputs[0] in weights]
    assert not [node.name for node in alone if node.op_type in ("Transpose", "Cast", "Exp", "Neg")]


def test_a_weight_that_is_read_as_it_is_stays():
    """It would be on the device twice."""
    text = """<ir_version: 10, opset_import: ["": 21]>
    g (float[2,3] w, float[2,3] x) => (float[2,2] y, float[2,3] z)
    { w_t = Transpose <perm = [1, 0]> (w)  y = MatMul (x, w_t)  z = Add (x, w) }"""
    model = ir.from_onnx_text(text)
    model.graph.inputs[0].metadata_props["ttc.kind"] = "weight"
    assert not prepare_weights(model)
    model.graph.inputs[1].metadata_props["ttc.kind"] = "weight"
    assert [value.name for value in model.graph.inputs] == ["w", "x"]
