"""From a torch function to a small ONNX graph, with fake tensors: no weight is ever materialised.

`ttc` ops are recorded as opaque nodes (`run_symbolic`); everything else becomes standard ONNX operators.
"""

import contextlib
import io
import logging
import warnings
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any

import onnx_ir as ir
import torch
from torch import Tensor, nn
from torch._subclasses.fake_tensor import FakeTensorMode

from ttc.base.dtypes import is_packed, numpy_dtype
from ttc.base.interrupts import interrupts_held
from ttc.model.graphs import GraphTensor
from ttc.plugins.functions import ONNX_OPSET
from ttc.plugins.ops import DOMAIN, DOMAIN_VERSION, OpSpec
from ttc.plugins.torch_tensors import dtype_names, logical_shapes

__all__ = ["run_symbolic", "trace"]

# Any size of at least 2 does: the tracer treats a named dimension as unknown. They differ so that a mix-up
# fails.
_EXAMPLE_SIZES = {"B": 2, "L": 5, "C": 24, "R": 3}


def run_symbolic(op: OpSpec, *inputs: Tensor, **attributes: Any) -> tuple[Tensor, ...]:
    """Record one `ttc` op as an opaque node whose output shapes and dtypes follow from its signature."""
    words = op.words(dtype_names(op, inputs))
    dtypes = [getattr(torch, spec.dtype_in(words)) for spec in op.outputs]
    shapes = op.output_shapes(logical_shapes(op, inputs), attributes)
    outputs = torch.onnx.ops.symbolic_multi_out(
        f"{DOMAIN}::{op.name}", inputs, attributes, dtypes=dtypes, shapes=shapes, version=DOMAIN_VERSION
    )
    return tuple(outputs)


def trace(
    function: Callable[[Mapping[str, Tensor]], dict[str, Tensor]], arguments: Sequence[GraphTensor]
) -> ir.Graph:
    """Return the graph of a function from named tensors to named tensors.

    Args:
        function: gets fake tensors, so it must not look at values.
        arguments: its inputs, in real dtypes; B, L, C and R become dynamic dimensions.

    Returns:
        A graph whose inputs and outputs have the names of the tensors.
    """
    input_names = [arg.name for arg in arguments]
    with interrupts_held(), FakeTensorMode(), _quiet():
        examples = [_example(arg) for arg in arguments]
        output_names = list(function(dict(zip(input_names, examples, strict=True))))
        shapes = [
            {axis: dim for axis, dim in enumerate(arg.shape) if isinstance(dim, str)} for arg in arguments
        ]
        program = torch.onnx.export(
            _Traced(function, input_names).eval(),
            (examples,),
            dynamo=True,
            optimize=True,
            verbose=False,
            opset_version=ONNX_OPSET,
            dynamic_shapes=(shapes,),
        )
    assert program is not None, "torch.onnx.export(dynamo=True) returns a program"
    graph: ir.Graph = program.model.graph
    for values, names in ((graph.inputs, input_names), (graph.outputs, output_names)):
        for value, name in zip(values, names, strict=True):
            value.name = name
    for value, arg in zip(graph.inputs, arguments, strict=True):
        if is_packed(arg.dtype):
            value.dtype, value.shape = ir.DataType.from_numpy(numpy_dtype(arg.dtype)), ir.Shape(arg.shape)
    return graph


class _Traced(nn.Module):
    """The module form that torch.onnx.export asks for: a list of tensors in, a tuple of tensors out."""

    def __init__(
        self, function: Callable[[Mapping[str, Tensor]], dict[str, Tensor]], input_names: Sequence[str]
    ) -> None:
        super().__init__()
        self.function = function
        self.input_names = input_names

    def forward(self, tensors: Sequence[Tensor]) -> tuple[Tensor, ...]:
        return tuple(self.function(dict(zip(self.input_names, tensors, strict=True))).values())


def _example(arg: GraphTensor) -> Tensor:
    """Return a tensor to trace with; numbers of four bits as torch has them, two in a byte."""
    shape = [_size(dim) for dim in arg.shape]
    if is_packed(arg.dtype):
        return torch.empty([*shape[:-1], shape[-1] // 2], dtype=torch.uint8)
    return torch.empty(shape, dtype=getattr(torch, arg.dtype))


def _size(dim: int | str) -> int:
    return _EXAMPLE_SIZES[dim] if isinstance(dim, str) else dim


@contextlib.contextmanager
def _quiet() -> Iterator[None]:
    """Keep the exporter's progress lines, and its warnings about its own internals, from the user."""
    loggers = [logging.getLogger(name) for name in ("torch.onnx", "onnxscript", "onnx_ir")]
    levels = [logger.level for logger in loggers]
    with warnings.catch_warnings(), contextlib.redirect_stdout(io.StringIO()):
        warnings.simplefilter("ignore")
        try:
            for logger in loggers:
                logger.setLevel(logging.ERROR)
            yield
        finally:
            for logger, level in zip(loggers, levels, strict=True):
                logger.setLevel(level)
