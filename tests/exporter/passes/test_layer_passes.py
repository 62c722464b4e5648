"""`inline_ops` and `fold_layers`: the same numbers under names that tell more."""

import numpy as np
import onnx
import onnx_ir as ir
import pytest

from tests.support.golden import golden
from tests.support.partitioned import feeds, run_whole
from ttc.errors import InputError
from ttc.exporter.passes.fold_layers import fold_layers
from ttc.exporter.passes.inline_ops import inline_ops
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


def test_a_layer_in_two_pieces_is_refused():
    x = ir.Value(name="x", type=ir.TensorType(ir.DataType.FLOAT), shape=ir.Shape([1]))
    nodes = []
    for name in ("layers.0.moe/a", "layers.1.moe/b", "layers.0.moe/c"):
        nodes.append(ir.Node("", "Relu", [nodes[-1].outputs[0] if nodes else x], name=name))
    graph = ir.Graph([x], nodes[-1].outputs, nodes=nodes, opset_imports={"": 21}, name="torn")
    with pytest.raises(InputError, match="nodes of one layer stand apart"):
        fold_layers(ir.Model(graph, ir_version=10))
