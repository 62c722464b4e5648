"""What a build reads: the digests of graphs, and the network that a graph becomes."""

import hashlib
import json
from pathlib import Path

import onnx_ir as ir
import pytest

import ttc
from ttc.errors import InputError
from ttc.exporter.engines.build_input import read_build_input
from ttc.exporter.engines.build_settings import BuildSettings
from ttc.exporter.engines.lower_graph import engine_specs
from ttc.exporter.engines.onnx_file import NETWORK_FILE
from ttc.exporter.engines.planning import make_plan
from ttc.exporter.onnx import export as export_module
from ttc.model.bundle import Bundle
from ttc.plugins.ops import DOMAIN
from ttc.plugins.table import PRIMITIVE_OPS


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


def test_what_is_parsed_is_what_was_digested(tmp_path, monkeypatch):
    """A file that was changed after its digest was taken is not built from, its external data neither."""
    monkeypatch.setattr(export_module, "EXTERNAL_DATA_BYTES", 2**12)
    path = ttc.export(Path(__file__).parents[2] / "golden" / "tiny_a", tmp_path / "bundle", "float32")
    for given in (path, path / "context.onnx"):
        read = read_build_input(given)
        context = read.graphs[0]
        stored = ir.load(path / "context.onnx")
        model = context.network_model(bake=True)
        for name, value in stored.graph.initializers.items():
            mine = model.graph.initializers[name].const_value
            assert mine.tobytes() == value.const_value.tobytes()
            assert (mine.dtype, mine.shape) == (value.const_value.dtype, value.const_value.shape)
        # What was held open while its digest was taken is what is read, though another file is there now.
        (path / "context.onnx.data").rename(tmp_path / "data")
        (path / "context.onnx.data").write_bytes(bytes((tmp_path / "data").stat().st_size))
        later = next(v for v in model.graph.initializers.values() if isinstance(v.const_value, ir.LazyTensor))
        assert later.const_value.tobytes() == stored.graph.initializers[later.name].const_value.tobytes()
        with pytest.raises(InputError, match=r"context\.onnx\.data: changed while it was being built"):
            context.network_model(bake=True)
        context.network_model(bake=False)  # takes nothing of it
        (tmp_path / "data").rename(path / "context.onnx.data")
    good = (path / "context.onnx").read_bytes()
    (path / "context.onnx").write_bytes(good.replace(b"context", b"kontext", 1))
    with pytest.raises(InputError, match=r"context\.onnx: changed while it was being built"):
        context.network_model(bake=False)


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


def test_what_has_no_plugin_is_inlined_for_tensorrt(bundles, tmp_path):
    """Ops that consist of others have no kernel of their own, and so no plugin; RTX has none of any."""
    plan = make_plan(bundles("tiny_a") / "denoiser.onnx", tmp_path / "out", BuildSettings())
    (graph,) = plan.graphs
    kernels = {op.name for op in PRIMITIVE_OPS}
    for plugins in (True, False):
        (spec,), _ = engine_specs(graph.source, "whole", graph.variants, bake=False, plugins=plugins)
        spec.write_network(tmp_path)
        network = ir.load(tmp_path / NETWORK_FILE)
        ops = {node.op_type for node in network.graph if node.domain == DOMAIN}
        assert ops <= kernels
        assert bool(ops) is plugins
