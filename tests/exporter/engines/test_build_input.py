"""What a build reads: the digests of graphs, and the network that a graph becomes."""

import hashlib
import json
from pathlib import Path

import ttc
from ttc.exporter.engines.build_input import read_source
from ttc.exporter.onnx import export as export_module
from ttc.model.bundle import Bundle


def test_builder_and_bundle_agree_on_digests(tmp_path, monkeypatch):
    """Of graphs with external data too, which only large ones have."""
    monkeypatch.setattr(export_module, "EXTERNAL_DATA_BYTES", 2**12)
    path = ttc.export(Path(__file__).parents[2] / "golden" / "tiny_a", tmp_path / "bundle", "float32")
    digests = {graph.role: graph.sha256 for graph in read_source(path).graphs}
    with Bundle.open(path) as bundle:
        assert {role: bundle.graph_digest(role) for role in digests} == digests
        files = bundle.manifest.files
    both = [files["context.onnx"].sha256, files["context.onnx.data"].sha256]
    assert digests["context"] == hashlib.sha256(json.dumps(both).encode()).hexdigest()
    assert digests["step"] == files["step.onnx"].sha256
