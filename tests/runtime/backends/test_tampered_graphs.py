"""Graphs of bundles that were tampered with, digests written anew: one error of ours."""

import shutil
from collections.abc import Callable
from pathlib import Path

import onnx
import pytest

import ttc
from tests.fuzz.seeds import CORPUS
from tests.support.faults import rewrite
from ttc.errors import TtcError
from ttc.model.bundle import Bundle
from ttc.runtime.backends.onnxruntime.load import load
from ttc.runtime.engine import Engine
from ttc.runtime.interface.settings import LoadSettings


def drop_output(model: onnx.ModelProto) -> None:
    del model.graph.output[0]


def drop_node(model: onnx.ModelProto) -> None:
    del model.graph.node[len(model.graph.node) // 2]


def rename_input(model: onnx.ModelProto) -> None:
    model.graph.input[0].name = "\x1b[2J"


def retype_output(model: onnx.ModelProto) -> None:
    model.graph.output[0].type.tensor_type.elem_type = onnx.TensorProto.STRING


def unknown_op(model: onnx.ModelProto) -> None:
    model.graph.node[0].op_type = "NoSuchOp"


def unknown_op_of_ours(model: onnx.ModelProto) -> None:
    model.graph.node[0].op_type, model.graph.node[0].domain = "NoSuchOp", "ttc"


def drop_weights(model: onnx.ModelProto) -> None:
    del model.graph.initializer[:]


def outside(model: onnx.ModelProto) -> None:
    tensor = model.graph.initializer.add(name="secret", data_type=onnx.TensorProto.FLOAT, dims=[1])
    tensor.data_location = onnx.TensorProto.EXTERNAL
    tensor.external_data.add(key="location", value="/etc/hostname")


CHANGES: tuple[Callable[[onnx.ModelProto], None], ...] = (
    drop_output,
    drop_node,
    rename_input,
    retype_output,
    unknown_op,
    unknown_op_of_ours,
    drop_weights,
    outside,
)


def plain(bundle: Path) -> Engine:
    """Return an engine that runs the bodies in the bundle."""
    with Bundle.open(bundle) as opened:
        return Engine(load(opened, LoadSettings(), native=False), None)


def is_refused(open_engine: Callable[[], Engine]) -> None:
    """Loading or generating ends in one line of ours."""
    with pytest.raises(TtcError) as refusal, open_engine() as engine:
        engine.generate([5, 6, 7], max_new_tokens=20)
    assert "\n" not in str(refusal.value)
    assert "\x1b" not in str(refusal.value)


@pytest.mark.parametrize("change", CHANGES, ids=lambda change: change.__name__)
def test_a_tampered_tower(tiny: Path, tmp_path: Path, change: Callable[[onnx.ModelProto], None]) -> None:
    bundle = Path(shutil.copytree(tiny, tmp_path / "x.bundle"))
    path = bundle / "denoiser.onnx"
    model = onnx.load(path)
    change(model)
    path.write_bytes(model.SerializeToString())
    rewrite(bundle)
    is_refused(lambda: ttc.load(bundle))


@pytest.mark.parametrize("path", sorted((CORPUS / "onnx_step").iterdir()), ids=lambda path: path.name)
def test_step_graphs_that_were_found(tiny: Path, tmp_path: Path, path: Path) -> None:
    bundle = Path(shutil.copytree(tiny, tmp_path / "x.bundle"))
    # As of this bundle: what it says of itself is written anew, too.
    model, own = onnx.ModelProto.FromString(path.read_bytes()), onnx.load(bundle / "step.onnx")
    del model.metadata_props[:]
    model.metadata_props.extend(own.metadata_props)
    (bundle / "step.onnx").write_bytes(model.SerializeToString())
    rewrite(bundle)
    # With operators of its own ONNX Runtime leaves the step to the host, and nobody runs this graph.
    is_refused(lambda: plain(bundle))
