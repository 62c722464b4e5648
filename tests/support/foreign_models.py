"""ONNX files as other people make them: what kinds there are, each as small as can be.

Every case is made in code: a function that writes a file into a folder, and what a user would say on the
command line to build it. Whether it builds is not said here: plain TensorRT-RTX is asked.
"""

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import onnx
import onnx.parser
from onnx import TensorProto, helper

__all__ = ["CASES", "FLOAT", "VI", "Case", "case", "external", "ones", "open_sizes", "save", "text_model"]

FLOAT = TensorProto.FLOAT
VI = helper.make_tensor_value_info


class Case(NamedTuple):
    """One file.

    `make`: writes it into a folder and returns its path; `shapes`: what a user gives with --shapes;
    `plain`: the same for every input with open dimensions or whose values are wanted, as numbers; `targets`:
    what it is built for.
    """

    make: Callable[[Path], Path]
    shapes: str = ""
    plain: dict[str, tuple[int, ...]] = {}  # noqa: RUF012  # never changed
    targets: tuple[str, ...] = ("8.9",)


CASES: dict[str, Case] = {}


def case(
    name: str,
    make: Callable[[Path], Path],
    shapes: str = "",
    plain: dict[str, tuple[int, ...]] | None = None,
    targets: tuple[str, ...] = ("8.9",),
) -> None:
    CASES[name] = Case(make, shapes, plain or {}, targets)


def ones(*shape: int) -> np.ndarray[Any, Any]:
    return np.ones(shape, np.float32)


def save(
    path: Path,
    nodes: Sequence[onnx.NodeProto],
    inputs: Sequence[onnx.ValueInfoProto],
    outputs: Sequence[onnx.ValueInfoProto],
    initializers: Sequence[onnx.TensorProto] = (),
    opset: int = 17,
    ir_version: int = 8,
    **more: Any,
) -> Path:
    """Write a model of these parts."""
    functions = more.pop("functions", ())
    graph = helper.make_graph(nodes, "g", inputs, outputs, list(initializers), **more)
    opsets = [helper.make_opsetid("", opset), helper.make_opsetid("own", 1)]
    model = helper.make_model(graph, opset_imports=opsets, ir_version=ir_version, functions=list(functions))
    onnx.save(model, path)
    return path


def text_model(text: str, opset: int = 17, ir_version: int = 8) -> Callable[[Path], Path]:
    """Return what writes the model of this text, which leaves out the header."""

    def make(folder: Path) -> Path:
        header = f'<ir_version: {ir_version}, opset_import: ["" : {opset}, "own" : 1]>'
        onnx.save(onnx.parser.parse_model(f"{header} {text}"), folder / "model.onnx")
        return folder / "model.onnx"

    return make


def external(name: str, shape: Sequence[int], location: str, offset: int = 0) -> onnx.TensorProto:
    """Return a float tensor whose values lie in another file."""
    tensor = TensorProto(name=name, data_type=FLOAT, data_location=TensorProto.EXTERNAL, dims=shape)
    length = 4 * int(np.prod(shape))
    for key, value in (("location", location), ("offset", str(offset)), ("length", str(length))):
        tensor.external_data.add(key=key, value=value)
    return tensor


def open_sizes(path: Path) -> dict[str, tuple[int, ...]]:
    """Return a shape with ones for every input that has open dimensions."""
    graph = onnx.load(path, load_external_data=False).graph
    weights = {tensor.name for tensor in graph.initializer}
    found = {}
    for value in graph.input:
        dims = value.type.tensor_type.shape.dim
        if value.name not in weights and any(not dim.HasField("dim_value") for dim in dims):
            found[value.name] = tuple(max(dim.dim_value, 1) for dim in dims)
    return found


def _texts() -> None:
    """Operators, dtypes, opsets and dimensions of all kinds, as text."""
    relu = "g (float[N, 4] x) => (float[N, 4] y) { y = Relu (x) }"
    case("relu", text_model(relu.replace("N", "2")))
    case("dim_by_name", text_model(relu), "N:3", {"x": (3, 4)})
    case("dim_by_input", text_model(relu), "x:3x4", {"x": (3, 4)})
    case("dim_with_odd_name", text_model(relu.replace("N", "batch_size")), "batch_size:2", {"x": (2, 4)})
    for opset, ir in ((6, 3), (9, 4), (11, 6), (13, 7), (25, 12)):
        matmul = "g (float[2, 4] x, float[4, 4] w) => (float[2, 4] y) { t = MatMul (x, w) y = Relu (t) }"
        case(f"opset_{opset}", text_model(matmul, opset, ir))
    case("opset_99", text_model("g (float[2] x) => (float[2] y) { y = Relu (x) }", 99))
    case("float16", text_model("g (float16[2, 4] x) => (float16[2, 4] y) { y = Tanh (x) }"))
    case("bfloat16", text_model("g (bfloat16[2, 4] x) => (bfloat16[2, 4] y) { y = Add (x, x) }"))
    case("double", text_model("g (double[2, 4] x) => (double[2, 4] y) { y = Relu (x) }"))
    case(
        "uint8_image",
        text_model("g (uint8[1, 3, 4, 4] x) => (float[1, 3, 4, 4] y) { y = Cast <to = 1> (x) }"),
    )
    case(
        "int64_ids",
        text_model("g (float[8, 4] e, int64[2, 3] i) => (float[2, 3, 4] y) { y = Gather (e, i) }"),
    )
    case(
        "bool_mask",
        text_model("g (bool[2] c, float[2] a, float[2] b) => (float[2] y) { y = Where (c, a, b) }"),
    )
    case("strings", text_model("g (string[2] x) => (string[2] y) { y = Identity (x) }"))
    case("complex", text_model("g (complex64[2] x) => (complex64[2] y) { y = Identity (x) }"))
    case("input_is_output", text_model("g (float[2] x) => (float[2] y, float[2] x) { y = Relu (x) }"))
    case("unused_input", text_model("g (float[2] x, float[2] z) => (float[2] y) { y = Relu (x) }"))
    case("no_shape", text_model("g (float x) => (float y) { y = Relu (x) }"))
    case("no_inputs", text_model("g () => (float[2] y) { y = Constant <value = float[2] {1.0, 2.0}> () }"))
    case("custom_op", text_model("g (float[2] x) => (float[2] y) { y = own.Frob (x) }"))
    case("no_such_op", text_model("g (float[2] x) => (float[2] y) { y = NoSuchOp (x) }"))
    case(
        "function",
        text_model(
            "g (float[2] x) => (float[2] y) { y = own.twice (x) } "
            '<domain: "own", opset_import: ["" : 17]> twice (a) => (b) { b = Add (a, a) }'
        ),
    )
    case("nonzero", text_model("g (float[2, 4] x) => (int64[2, M] y) { y = NonZero (x) }"))
    case(
        "nonzero_inside",
        text_model(
            "g (float[8] x) => (float[M] y) { i = NonZero (x) s = Constant <value = int64[1] {0}> () "
            "j = Squeeze (i, s) y = Gather (x, j) }"
        ),
    )
    for k in (5, 4000):
        case(
            f"topk_{k}",
            text_model(
                f"g (float[1, 8192] x) => (float[1, {k}] v, int64[1, {k}] i) "
                f"{{ k = Constant <value = int64[1] {{{k}}}> () v, i = TopK (x, k) }}"
            ),
        )
    case(
        "nms",
        text_model(
            "g (float[1, 8, 4] b, float[1, 1, 8] s) => (int64[M, 3] y) "
            "{ n = Constant <value = int64[1] {4}> () t = Constant <value = float[1] {0.5}> () "
            "y = NonMaxSuppression (b, s, n, t) }"
        ),
    )
    case("unique", text_model("g (float[8] x) => (float[M] y) { y = Unique (x) }"))
    case("det", text_model("g (float[3, 3] x) => (float y) { y = Det (x) }"))
    case("sequence", text_model("g (float[2] x) => (seq(float[2]) y) { y = SequenceConstruct (x, x) }"))
    case(
        "shape_of_input",
        text_model(
            "g (float[N, 4, 5] x) => (float[N, 20] y) { s = Shape (x) z = Constant <value = int64[1] {0}> () "
            "n = Gather (s, z) m = Constant <value = int64[1] {-1}> () t = Concat <axis = 0> (n, m) "
            "y = Reshape (x, t) }"
        ),
        "N:2",
        {"x": (2, 4, 5)},
    )
    case(
        "values_decide_shapes",
        text_model("g (float[2, 6] x, int64[2] s) => (float[A, B] y) { y = Reshape (x, s) }"),
        "s:3x4",
        {"s": (3, 4)},
    )
    case(
        "expand_by_values",
        text_model("g (float[1, 6] x, int64[2] s) => (float[A, 6] y) { y = Expand (x, s) }"),
        "s:3x6",
        {"s": (3, 6)},
    )
    case(
        "einsum",
        text_model(
            "g (float[2, 3] a, float[3, 4] b) => (float[2, 4] y) "
            '{ y = Einsum <equation = "ij,jk->ik"> (a, b) }'
        ),
    )
    case(
        "resize",
        text_model(
            "g (float[1, 1, 4, 4] x) => (float[1, 1, 8, 8] y) "
            "{ s = Constant <value = float[4] {1.0, 1.0, 2.0, 2.0}> () y = Resize (x, , s) }"
        ),
    )
    case(
        "cumsum",
        text_model(
            "g (float[2, 4] x) => (float[2, 4] y) { a = Constant <value = int64 {1}> () y = CumSum (x, a) }"
        ),
    )
    case(
        "attention",
        text_model(
            "g (float16[1, 2, 8, 16] q) => (float16[1, 2, 8, 16] y) { y = Attention (q, q, q) }", 23, 11
        ),
    )
    case(
        "loop",
        text_model(
            "g (float[2] x) => (float[2] y) "
            "{ n = Constant <value = int64 {3}> () c = Constant <value = bool {1}> () "
            "y = Loop (n, c, x) <body = b (int64 i, bool ci, float[2] s) => (bool co, float[2] so) "
            "{ co = Identity (ci) so = Add (s, s) }> }"
        ),
    )
    case(
        "if",
        text_model(
            "g (bool c, float[2] x) => (float[2] y) { y = If (c) <then_branch = t () => (float[2] a) "
            "{ a = Relu (x) }, else_branch = e () => (float[2] b) { b = Neg (x) }> }"
        ),
    )
    case(
        "scan",
        text_model(
            "g (float[2] s, float[5, 2] x) => (float[2] z, float[5, 2] y) "
            "{ z, y = Scan <num_scan_inputs = 1, "
            "body = b (float[2] a, float[2] i) => (float[2] o, float[2] p) "
            "{ o = Add (a, i) p = Identity (o) }> (s, x) }"
        ),
    )


_texts()
