"""ONNX files whose weights lie inside, outside and where nobody looks for them; quantised and recurrent ones.

What is here is added to `CASES` of `tests.support.foreign_models`.
"""

import os
from collections.abc import Callable
from pathlib import Path

import numpy as np
import onnx
from onnx import TensorProto, helper, numpy_helper

from tests.support.foreign_models import CASES, FLOAT, VI, case, external, ones, save

__all__ = ["CASES", "MATMUL", "W44", "X24", "Y24", "large_matmul"]

X24, Y24 = VI("x", FLOAT, [2, 4]), VI("y", FLOAT, [2, 4])
MATMUL = helper.make_node("MatMul", ["x", "W"], ["y"])
W44 = numpy_helper.from_array(ones(4, 4), "W")


def large_matmul(folder: Path, least_bytes: int) -> Path:
    """Write a product with one float32 matrix outside the file, at least so large and all holes."""
    rows = 4096
    columns = -(-least_bytes // (4 * rows))
    with (folder / "w.bin").open("wb") as file:
        file.truncate(4 * rows * columns)
    x, y = VI("x", FLOAT, [1, rows]), VI("y", FLOAT, [1, columns])
    return save(folder / "m.onnx", [MATMUL], [x], [y], [external("W", [rows, columns], "w.bin")])


def _weights() -> None:
    """Weights inside, outside and where nobody looks for them."""

    def convolution(folder: Path) -> Path:
        dims = ["n", 3, "h", "w"]
        kernel = numpy_helper.from_array(ones(2, 3, 3, 3), "K")
        node = helper.make_node("Conv", ["x", "K"], ["y"], strides=[2, 2])
        outputs = [VI("y", FLOAT, ["n", 2, "h_out", "w_out"])]
        return save(folder / "conv.onnx", [node], [VI("x", FLOAT, dims)], outputs, [kernel])

    def unnamed(dim: int | None) -> Callable[[Path], Path]:
        def make(folder: Path) -> Path:
            node = helper.make_node("Relu", ["x"], ["y"])
            return save(folder / "m.onnx", [node], [VI("x", FLOAT, [dim, 4])], [VI("y", FLOAT, [dim, 4])])

        return make

    def inner_dim(folder: Path) -> Path:
        nodes = [helper.make_node("Relu", ["x"], ["t"]), helper.make_node("Neg", ["t"], ["y"])]
        x, y = VI("x", FLOAT, ["n", 4]), VI("y", FLOAT, ["n", 4])
        return save(folder / "m.onnx", nodes, [x], [y], value_info=[VI("t", FLOAT, [None, 4])])

    def initializer_input(folder: Path) -> Path:
        inputs = [X24, VI("W", FLOAT, [4, 4])]
        return save(folder / "m.onnx", [MATMUL], inputs, [Y24], [W44], opset=13, ir_version=3)

    def beside(location: str, size_bytes: int = 64, written: bool = True) -> Callable[[Path], Path]:
        def make(folder: Path) -> Path:
            file = folder / location
            if written:
                file.parent.mkdir(exist_ok=True)
                file.write_bytes(ones(4, 4).tobytes()[:size_bytes])
            return save(folder / "m.onnx", [MATMUL], [X24], [Y24], [external("W", [4, 4], location)])

        return make

    def outside(folder: Path) -> Path:
        (folder / "inner").mkdir()
        (folder / "w.bin").write_bytes(ones(4, 4).tobytes())
        weight = external("W", [4, 4], "../w.bin")
        return save(folder / "inner" / "m.onnx", [MATMUL], [X24], [Y24], [weight])

    def absolute(folder: Path) -> Path:
        (folder / "w.bin").write_bytes(ones(4, 4).tobytes())
        weight = external("W", [4, 4], str(folder / "w.bin"))
        return save(folder / "m.onnx", [MATMUL], [X24], [Y24], [weight])

    def in_branches(folder: Path) -> Path:
        (folder / "w.bin").write_bytes((2 * ones(4, 4)).tobytes())

        def branch(name: str) -> onnx.GraphProto:
            node, out = helper.make_node("MatMul", ["x", name], [f"{name}y"]), VI(f"{name}y", FLOAT, [2, 4])
            return helper.make_graph([node], name, [], [out], [external(name, [4, 4], "w.bin")])

        node = helper.make_node("If", ["c"], ["y"], then_branch=branch("A"), else_branch=branch("B"))
        return save(folder / "m.onnx", [node], [X24, VI("c", TensorProto.BOOL, [])], [Y24])

    def in_attribute(folder: Path) -> Path:
        (folder / "w.bin").write_bytes(ones(4, 4).tobytes())
        constant = helper.make_node("Constant", [], ["W"], value=external("v", [4, 4], "w.bin"))
        return save(folder / "m.onnx", [constant, MATMUL], [X24], [Y24])

    def in_function(folder: Path) -> Path:
        (folder / "w.bin").write_bytes(ones(4, 4).tobytes())
        constant = helper.make_node("Constant", [], ["W"], value=external("v", [4, 4], "w.bin"))
        opsets = [helper.make_opsetid("", 17)]
        function = helper.make_function("own", "Dense", ["x"], ["y"], [constant, MATMUL], opsets)
        node = helper.make_node("Dense", ["x"], ["y"], domain="own")
        return save(folder / "m.onnx", [node], [X24], [Y24], functions=[function])

    def hub(folder: Path) -> Path:
        blobs, snapshot = folder / "blobs", folder / "snapshots" / "r"
        blobs.mkdir()
        snapshot.mkdir(parents=True)
        save(blobs / "a", [MATMUL], [X24], [Y24], [external("W", [4, 4], "m.onnx.data")])
        (blobs / "b").write_bytes(ones(4, 4).tobytes())
        for blob, link in (("a", "m.onnx"), ("b", "m.onnx.data")):
            os.symlink(f"../../blobs/{blob}", snapshot / link)
        return snapshot / "m.onnx"

    case("output_dims", convolution, "n:1,h:8,w:8", {"x": (1, 3, 8, 8)})
    case("conv_by_input", convolution, "x:2x3x9x7", {"x": (2, 3, 9, 7)})
    case("unnamed_dim", unnamed(None), "x:2x4", {"x": (2, 4)})
    case("minus_one", unnamed(-1), "x:2x4", {"x": (2, 4)})
    case("inner_dim", inner_dim, "n:2", {"x": (2, 4)})
    case("initializer_input", initializer_input)
    case("external", beside("w.bin"))
    case("external_below", beside("sub/w.bin"))
    case("external_missing", beside("w.bin", written=False))
    case("external_short", beside("w.bin", size_bytes=60))
    case("external_outside", outside)
    case("external_absolute", absolute)
    case("external_in_branches", in_branches)
    case("external_in_attribute", in_attribute)
    case("external_in_function", in_function)
    case("hugging_face_cache", hub)


def _quantised() -> None:
    """Quantised as ONNX does it: QuantizeLinear and DequantizeLinear."""

    def activations(dtype: int, zero: list[float], opset: int) -> Callable[[Path], Path]:
        def make(folder: Path) -> Path:
            scale = numpy_helper.from_array(np.array(0.1, np.float32), "s")
            nodes = [
                helper.make_node("QuantizeLinear", ["x", "s", "z"], ["q"]),
                helper.make_node("DequantizeLinear", ["q", "s", "z"], ["d"]),
                helper.make_node("MatMul", ["d", "W"], ["y"]),
            ]
            weights = [
                scale,
                helper.make_tensor("z", dtype, [], zero),
                numpy_helper.from_array(ones(16, 16), "W"),
            ]
            x, y = VI("x", FLOAT, [16, 16]), VI("y", FLOAT, [16, 16])
            return save(folder / "m.onnx", nodes, [x], [y], weights, opset=opset, ir_version=9)

        return make

    def int4_weights(folder: Path) -> Path:
        codes = helper.make_tensor("q", TensorProto.INT4, [64, 16], [1] * 1024)
        scales = numpy_helper.from_array(ones(2, 16), "s")
        nodes = [
            helper.make_node("DequantizeLinear", ["q", "s"], ["d"], axis=0, block_size=32),
            helper.make_node("MatMul", ["x", "d"], ["y"]),
        ]
        x, y = VI("x", FLOAT, [2, 64]), VI("y", FLOAT, [2, 16])
        return save(folder / "m.onnx", nodes, [x], [y], [codes, scales], opset=21, ir_version=10)

    def fp4_weights(folder: Path) -> Path:
        """As ModelOpt writes NVFP4: the scales of blocks of 16 are fp8, and have a scale themselves."""
        codes = helper.make_tensor("q", TensorProto.FLOAT4E2M1, [64, 16], [1.0] * 1024)
        scales = helper.make_tensor("s8", TensorProto.FLOAT8E4M3FN, [4, 16], [1.0] * 64)
        whole = numpy_helper.from_array(np.array(0.5, np.float32), "s")
        nodes = [
            helper.make_node("DequantizeLinear", ["s8", "s"], ["scale"]),
            helper.make_node("DequantizeLinear", ["q", "scale"], ["d"], axis=0, block_size=16),
            helper.make_node("MatMul", ["x", "d"], ["y"]),
        ]
        x, y = VI("x", FLOAT, [2, 64]), VI("y", FLOAT, [2, 16])
        return save(folder / "m.onnx", nodes, [x], [y], [codes, scales, whole], opset=23, ir_version=11)

    case("int8", activations(TensorProto.INT8, [0], 17))
    case("uint8", activations(TensorProto.UINT8, [128], 17))
    case("fp8", activations(TensorProto.FLOAT8E4M3FN, [0.0], 19))
    case("fp8_e5m2", activations(TensorProto.FLOAT8E5M2, [0.0], 19))
    case("int4_weights", int4_weights)
    case("fp4_weights", fp4_weights, targets=("12.0",))


def _recurrent() -> None:
    def layer(kind: str, gates: int) -> Callable[[Path], Path]:
        def make(folder: Path) -> Path:
            weights = [
                numpy_helper.from_array(ones(1, gates * 8, 4), "W"),
                numpy_helper.from_array(ones(1, gates * 8, 8), "R"),
            ]
            node = helper.make_node(kind, ["x", "W", "R"], ["y"], hidden_size=8)
            x, y = VI("x", FLOAT, ["T", 2, 4]), VI("y", FLOAT, ["T", 1, 2, 8])
            return save(folder / "m.onnx", [node], [x], [y], weights)

        return make

    for kind, gates in (("LSTM", 4), ("GRU", 3), ("RNN", 1)):
        case(kind.lower(), layer(kind, gates), "T:5", {"x": (5, 2, 4)})


def _odd() -> None:
    """What is allowed, and what hardly anybody writes."""

    def relu(
        x: onnx.ValueInfoProto, *y: onnx.ValueInfoProto, opset: int = 17, ir_version: int = 8, file: str = "m"
    ) -> Callable[[Path], Path]:
        def make(folder: Path) -> Path:
            node = helper.make_node("Relu", [x.name], [y[0].name if y else "y"], name="a b\n c")
            path = folder / f"{file}.onnx"
            return save(path, [node], [x], list(y), opset=opset, ir_version=ir_version)

        return make

    def calls_functions(folder: Path) -> Path:
        """A function that calls another, which hands an attribute on."""
        own = [helper.make_opsetid("", 17), helper.make_opsetid("my", 1)]
        leak = helper.make_node("LeakyRelu", ["x"], ["y"])
        handed = onnx.AttributeProto(name="alpha", ref_attr_name="alpha", type=onnx.AttributeProto.FLOAT)
        leak.attribute.append(handed)
        inner = helper.make_function("my", "Leak", ["x"], ["y"], [leak], own[:1], ["alpha"])
        twice = [
            helper.make_node("Leak", ["x"], ["t"], domain="my", alpha=0.2),
            helper.make_node("Leak", ["t"], ["y"], domain="my", alpha=0.3),
        ]
        outer = helper.make_function("my", "Twice", ["x"], ["y"], twice, own)
        graph = helper.make_graph([helper.make_node("Twice", ["x"], ["y"], domain="my")], "g", [X24], [Y24])
        path = folder / "m.onnx"
        onnx.save(helper.make_model(graph, opset_imports=own, functions=[inner, outer], ir_version=9), path)
        return path

    named = VI("in put:0", FLOAT, ["batch size", 4]), VI("y\nz é/日本", FLOAT, ["batch size", 4])
    case("odd_names", relu(*named), "batch size:2", {"in put:0": (2, 4)})
    case("odd_file_name", relu(X24, Y24, file="mö del, v1:2 'q'"))
    case("no_elements", relu(VI("x", FLOAT, [0, 4]), VI("y", FLOAT, [0, 4])))
    case("no_dimensions", relu(VI("x", FLOAT, []), VI("y", FLOAT, [])))
    case("no_outputs", relu(X24))
    case("output_twice", relu(X24, Y24, Y24))
    case("opset_28", relu(X24, Y24, opset=28, ir_version=13))
    case("calls_functions", calls_functions)


_weights()
_quantised()
_recurrent()
_odd()
