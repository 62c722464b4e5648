"""What a build reads: the digests of graphs, and the network that a graph becomes."""

import hashlib
import json
from pathlib import Path

import ttc
from ttc.exporter.engines.build_input import read_build_input
from ttc.exporter.onnx import export as export_module
from ttc.model.bundle import Bundle


def test_builder_and_bundle_agree_on_digests(tmp_path, monkeypatch):
    """Of graphs with external data too, which only large ones have."""
    monkeypatch.setattr(export_module, "EXTERNAL_DATA_BYTES", 2**12)
    path = ttc.export(Path(__file__).parents[2] / "golden" / "tiny_a", tmp_path / "bundle", "float32")
    digests = {graph.role: graph.sha256 for graph in read_build_input(path).graphs}
    with Bundle.open(path) as bundle:
        assert {role: bundle.graph_digest(role) for role in digests} == digests
        files = bundle.manifest.files
    both = [files["context.onnx"].sha256, files["context.onnx.data"].sha256]
    assert digests["context"] == hashlib.sha256(json.dumps(both).encode()).hexdigest()
    assert digests["step"] == files["step.onnx"].sha256


def test_weights_stay_inside_when_baked(bundles):
    with Bundle.open(bundles("tiny_a")) as bundle:
        weights = {name for name, entry in bundle.weights.items() if "context" in entry.graphs}
    context = read_build_input(bundles("tiny_a")).graphs[0]
    for bake in (False, True):
        graph = context.network_model(bake).graph
        inside = {name for name in graph.initializers if not name.startswith("constant.")}
        assert inside == (weights if bake else set())
        assert weights & {value.name for value in graph.inputs} == (set() if bake else weights)
        assert "k_rows.3" in {value.name for value in graph.outputs}
