"""The cache of engines: when it answers, and that it is never in the way."""

import pytest

from tests.support.build_models import write_model
from ttc.exporter.engines import engine_builder
from ttc.exporter.engines.build import build
from ttc.formats.engines import EngineFolder

pytest.importorskip("tensorrt_rtx", reason="TensorRT-RTX is not installed")
pytestmark = pytest.mark.usefixtures("cache_folder")
OWN = """<ir_version: 10, opset_import: ["" : 21]> g (float[4] x, float[4] w) => (float[4] y)
{ c = Cast <to = 1> (w) y = Mul (x, c) }"""


def test_the_cache_hits_and_misses(bundles, step, tmp_path, monkeypatch):
    def cached(**changes):
        (graph,) = build(step, tmp_path / "out", **changes).graphs
        return graph.cached

    assert not cached()
    assert cached()
    assert not cached(shapes={"batch": {"max": 2}})
    assert not cached(targets=("8.9",))
    assert not cached(form="cut")
    assert not cached(cache=False)
    assert cached()
    with monkeypatch.context() as changed:
        changed.setattr(engine_builder, "kernel_digests", lambda: {"DiffusionStep": "0"})
        assert not cached()
    with monkeypatch.context() as changed:
        changed.setattr("ttc.exporter.engines.planning.backend_version", lambda backend: "1.7.9")
        assert not cached()
    # One weight of another dtype.
    path = write_model(tmp_path / "own.onnx", OWN)
    assert not build(path).graphs[0].cached
    assert build(path).graphs[0].cached
    write_model(path, OWN.replace("float[4] w", "float16[4] w"))
    assert not build(path).graphs[0].cached


def test_a_damaged_cache_entry_is_built_again(step, tmp_path, cache_folder):
    build(step, tmp_path / "out")
    (engine,) = cache_folder.glob("*/step.engine")
    engine.write_bytes(b"x" + engine.read_bytes()[1:])
    report = build(step, tmp_path / "out")
    assert not report.graphs[0].cached
    EngineFolder.open(report.output)
    assert build(step, tmp_path / "out").graphs[0].cached


def test_a_cache_that_cannot_be_written_to_costs_no_build(step, tmp_path, monkeypatch):
    (tmp_path / "file").touch()
    monkeypatch.setenv("TTC_CACHE_DIR", str(tmp_path / "file"))
    report = build(step, tmp_path / "out")
    EngineFolder.open(report.output)
    assert any("not kept in the cache" in note and "TTC_CACHE_DIR" in note for note in report.notes)
