"""What passes between a build and the process that builds one engine."""

import dataclasses

from ttc.exporter.engines.build_phases import BuildPhase
from ttc.exporter.engines.engine_spec import BuiltEngine, EngineSpec
from ttc.formats.engines import TensorRecord

TENSOR = TensorRecord("x", "weight", "float32", (2, "B", "C + 1"), (2, 1, 2), (2, 1, 9), (2, 4, 17))
SPEC = EngineSpec(
    "context-00",
    "context",
    (TENSOR, TENSOR),
    (TENSOR,),
    lambda folder: (folder / "network.onnx").write_bytes(b"an ONNX file"),
)


def test_a_spec_is_read_as_it_was_written(tmp_path):
    SPEC.write(tmp_path)
    read = EngineSpec.read(tmp_path)
    assert (tmp_path / "network.onnx").read_bytes() == b"an ONNX file"
    assert dataclasses.replace(read, write_network=SPEC.write_network) == SPEC


def test_a_built_engine_is_read_as_it_was_written(tmp_path):
    assert BuiltEngine.read(tmp_path) is None
    phases = {"parse": BuildPhase(0.5, 2**20), "build": BuildPhase(2.25, 2**30)}
    layers = ({"LayerType": "CONVOLUTION", "Name": "a"}, {"LayerType": "SHUFFLE", "Name": "b\x1e"})
    built = BuiltEngine(BuiltEngine.engine_file(tmp_path), layers, phases, is_fixed=True)
    built.write(tmp_path)
    assert BuiltEngine.read(tmp_path) == built
