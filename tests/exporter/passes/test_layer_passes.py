"""`inline_ops`, `share_common` and `fold_layers`: same numbers, fewer nodes, better names."""

import numpy as np
import onnx
import onnx_ir as ir
import pytest

from tests.support.golden import golden
from tests.support.partitioned import feeds, run_whole
from ttc.errors import InputError
from ttc.exporter.passes.fold_layers import fold_layers
from ttc.exporter.passes.inline_ops import inline_ops
from ttc.exporter.passes.share_common import share_common
from ttc.model.bundle import Bundle


@pytest.mark.parametrize("role", ["context", "denoiser"])
def test_layers_as_nodes_compute_the_same(bundles, role):
    path = bundles("tiny_a") / f"{role}.onnx"
    with Bundle.open(bundles("tiny_a")) as bundle:
        weights = dict(bundle.weights)
    before = ir.load(path)
    inputs = feeds(before.graph, weights, golden("tiny_a").config.vocab_size, seed=1)
    due = run_whole(before, inputs, "DISABLE_ALL")

    model = ir.load(path)
    assert inline_ops(model)
    assert not inline_ops(model), "a second run changes nothing"
    assert not model.functions
    names = {node.name.split("/")[1] for node in model.graph if node.name.startswith("layers.0.mamba/")}
    assert {"MambaConv", "MambaScan"} <= names
    assert fold_layers(model)
    assert not fold_layers(model), "a second run changes nothing"
    onnx.checker.check_model(ir.to_proto(model))

    layers = [node.name for node in model.graph if node.name.startswith("layers.")]
    assert layers == [f"layers.{i}.{kind.scope}" for i, kind in enumerate(golden("tiny_a").config.layers)]
    got = run_whole(model, inputs, "DISABLE_ALL")
    assert got.keys() == due.keys()
    assert all(np.array_equal(got[name], due[name]) for name in due)


@pytest.mark.parametrize("role", ["context", "denoiser"])
def test_what_is_written_several_times_is_computed_once(bundles, role):
    path = bundles("tiny_a") / f"{role}.onnx"
    with Bundle.open(bundles("tiny_a")) as bundle:
        weights = dict(bundle.weights)
    model = ir.load(path)
    inline_ops(model)
    inputs = feeds(model.graph, weights, golden("tiny_a").config.vocab_size, seed=1)
    due, nodes = run_whole(model, inputs, "DISABLE_ALL"), model.graph.num_nodes()

    assert share_common(model)
    assert not share_common(model), "a second run changes nothing"
    assert model.graph.num_nodes() < 0.8 * nodes
    onnx.checker.check_model(ir.to_proto(model))
    got = run_whole(model, inputs, "DISABLE_ALL")
    assert got.keys() == due.keys()
    assert all(np.array_equal(got[name], due[name]) for name in due)


def test_what_differs_in_an_attribute_or_is_drawn_is_not_shared():
    model = ir.from_onnx_text(
        """<ir_version: 10, opset_import: ["": 21]>
        g (float[2, 2] x) => (float[2, 2] y) {
            a = Transpose <perm = [0, 1]> (x)
            b = Transpose <perm = [1, 0]> (x)
            c = Transpose <perm = [1, 0]> (x)
            d = RandomNormalLike (x)
            e = RandomNormalLike (x)
            y = Sum (a, b, c, d, e)
        }"""
    )
    assert share_common(model)
    assert [node.op_type for node in model.graph] == ["Transpose"] * 2 + ["RandomNormalLike"] * 2 + ["Sum"]


def test_a_layer_in_two_pieces_is_refused():
    x = ir.Value(name="x", type=ir.TensorType(ir.DataType.FLOAT), shape=ir.Shape([1]))
    nodes = []
    for name in ("layers.0.moe/a", "layers.1.moe/b", "layers.0.moe/c"):
        nodes.append(ir.Node("", "Relu", [nodes[-1].outputs[0] if nodes else x], name=name))
    graph = ir.Graph([x], nodes[-1].outputs, nodes=nodes, opset_imports={"": 21}, name="torn")
    with pytest.raises(InputError, match="nodes of one layer stand apart"):
        fold_layers(ir.Model(graph, ir_version=10))
