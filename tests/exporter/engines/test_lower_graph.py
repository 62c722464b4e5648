"""What a graph is before TensorRT parses it."""

import onnx
import pytest

from ttc.exporter.engines.build_settings import BuildSettings
from ttc.exporter.engines.lower_graph import engine_specs
from ttc.exporter.engines.onnx_file import NETWORK_FILE
from ttc.exporter.engines.planning import make_plan
from ttc.plugins.table import PRIMITIVE_OPS


@pytest.mark.parametrize("role", ["context", "step"])
def test_every_op_that_asks_for_a_plugin_has_one(bundles, role, tmp_path):
    """A composite has none: only its parts are left, each with its body for whoever has no plugins."""
    plan = make_plan(bundles("tiny_a"), None, BuildSettings(form="whole"))
    (graph,) = (graph for graph in plan.graphs if graph.source.role == role)
    specs, _ = engine_specs(graph.source, "whole", graph.variants, bake=False, plugins=True)
    primitive = {op.name for op in PRIMITIVE_OPS}
    for spec in specs:
        spec.write_network(tmp_path)
        model = onnx.load(tmp_path / NETWORK_FILE)
        asked = [node.op_type for node in model.graph.node if any(a.name == "aot" for a in node.attribute)]
        assert set(asked) <= primitive
        assert "MoeUp" in asked or "DiffusionPredict" in asked
        assert {function.name for function in model.functions} <= primitive
        assert not [n.name for n in model.graph.node if n.domain == "ttc" and n.op_type not in primitive]
