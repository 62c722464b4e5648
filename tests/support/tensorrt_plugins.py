"""Drives our plugins through NVIDIA's own Python code, as TensorRT's builder would; runs under stubs.

Replaced are only the C++ objects that need TensorRT's libraries: the registry of creators, and the symbolic
dimensions, which here carry the value they would have at run time. `main` is called in a process that
`tests.support.tensorrt_stubs` made.
"""

import json
import sys
from types import SimpleNamespace

import tensorrt as trt
import tensorrt.plugin as trtp

from ttc.base.dims import letters
from ttc.plugins.ops import DOMAIN
from ttc.plugins.registration import register_all
from ttc.plugins.table import LAUNCHED_OPS

_TYPES = {
    "float32": trt.DataType.FLOAT,
    "float16": trt.DataType.HALF,
    "bfloat16": trt.DataType.BF16,
    "int32": trt.DataType.INT32,
    "int64": trt.DataType.INT64,
    "int8": trt.DataType.INT8,
    "float8_e4m3fn": trt.DataType.FP8,
    "float4_e2m1fn": trt.DataType.FP4,
    "int4": trt.DataType.INT4,
}
_OPERATIONS = {
    trt.DimensionOperation.SUM: lambda a, b: a + b,
    trt.DimensionOperation.SUB: lambda a, b: a - b,
    trt.DimensionOperation.PROD: lambda a, b: a * b,
    trt.DimensionOperation.MAX: max,
    trt.DimensionOperation.MIN: min,
    trt.DimensionOperation.FLOOR_DIV: lambda a, b: a // b,
    trt.DimensionOperation.CEIL_DIV: lambda a, b: -(-a // b),
}


class Registry:
    """The creators that were registered, as TensorRT's registry keeps them."""

    def __init__(self):
        self.creators = {}

    def register_creator(self, creator, namespace):
        self.creators[namespace, creator.name] = creator

    def get_creator(self, name, version, namespace):
        assert version == "1"
        return self.creators[namespace, name]


class Dimension(trt.IDimensionExpr):
    """A symbolic dimension that knows its value at run time and does not show it unless it is a constant."""

    @classmethod
    def make(cls, value, constant):
        dimension = cls.__new__(cls)  # the C++ class has no constructor
        dimension.value, dimension.constant = value, constant
        return dimension

    def is_constant(self):
        return self.constant

    def get_constant_value(self):
        assert self.constant, "a dynamic dimension was asked for its value"
        return self.value


class Expressions:
    """Makes symbolic dimensions, like TensorRT's IExprBuilder."""

    def constant(self, value):
        return Dimension.make(value, True)

    def operation(self, kind, a, b):
        return Dimension.make(_OPERATIONS[kind](a.value, b.value), a.constant and b.constant)


class Dimensions(list):
    """In place of trt.DimsExprs, which takes C++ objects only."""

    def __init__(self, length):
        super().__init__([None] * length)


class Arguments(dict):
    """Takes a kernel's int arguments, as TensorRT's ISymExprs does."""

    nbSymExprs = 0  # TensorRT's own name


def replace_libraries():
    """Put our stand-ins where NVIDIA's code reaches for C++ objects."""
    registry = Registry()
    trt.get_plugin_registry = lambda: registry
    trt.DimsExprs = Dimensions
    trtp._tensor.SymExprImpl = lambda expression: expression._expr.value
    return registry


def description(shape, dtype, dynamic):
    """A tensor of the network: -1 where dynamic, the profile at the given shape."""
    tensor = trt.PluginTensorDesc()
    tensor.dims = tuple(-1 if moves else size for size, moves in zip(shape, dynamic, strict=True))
    tensor.type, tensor.format = _TYPES[dtype], trt.TensorFormat.LINEAR
    whole = trt.DynamicPluginTensorDesc()
    whole.desc = tensor
    whole.min = whole.opt = whole.max = tuple(shape)
    return whole


def drive(registry, case):
    """One plugin from its ONNX attributes to its kernel's launch."""
    op = next(op for op in LAUNCHED_OPS if op.name == case["op"])
    fields = [
        trt.PluginField(name, *_field(value), _kind(value)) for name, value in case["attributes"].items()
    ]
    creator = registry.get_creator(op.name, "1", DOMAIN)
    assert {field.name for field in creator.field_names} == set(op.attributes)
    plugin = creator.create_plugin(
        op.name,
        DOMAIN,
        trt.PluginFieldCollection(fields),
        trt.TensorRTPhase.BUILD,
        trt.QuickPluginCreationRequest.STRICT_AOT,
    )
    shapes, dtypes = case["shapes"], case["dtypes"]
    dynamic = [[bool(letters(dim) & set(case["dynamic"])) for dim in spec.shape] for spec in op.inputs]
    types = plugin.get_output_data_types([_TYPES[dtype] for dtype in dtypes], [len(s) for s in shapes])
    symbols = [
        [Dimension.make(size, not moves) for size, moves in zip(shape, moving, strict=True)]
        for shape, moving in zip(shapes, dynamic, strict=True)
    ]
    outputs = [[d.value for d in shape] for shape in plugin.get_output_shapes(symbols, [], Expressions())]
    names = {kind: name for name, kind in _TYPES.items()}
    tensors = [description(*tensor) for tensor in zip(shapes, dtypes, dynamic, strict=True)]
    tensors += [
        description(shape, names[kind], [True] * len(shape))
        for shape, kind in zip(outputs, types, strict=True)
    ]
    combinations = plugin.get_supported_format_combinations(tensors, len(shapes))
    plugin.configure_plugin(tensors[: len(shapes)], tensors[len(shapes) :])
    tactics = plugin.get_valid_tactics()
    plugin.set_tactic(case["tactic"])
    params, arguments = SimpleNamespace(), Arguments()
    plugin.get_launch_params(None, tensors, len(shapes), params, arguments, Expressions())
    inputs, results = tensors[: len(shapes)], tensors[len(shapes) :]
    name, ptx = plugin.get_kernel([t.desc for t in inputs], [t.desc for t in results])
    return {
        "outputs": outputs,
        "dtypes": [names[kind] for kind in types],
        "num_combinations": len(combinations) // len(tensors),
        "combinations": [
            [names[tensor.type] for tensor in combinations[start : start + len(shapes)]]
            for start in range(0, len(combinations), len(tensors))
        ],
        "tactics": sorted(tactics),
        "launch": vars(params),
        "integers": [arguments[i] for i in range(arguments.nbSymExprs)],
        "kernel": name,
        "ptx": ptx.decode(),
    }


def _kind(value):
    return trt.PluginFieldType.FLOAT32 if isinstance(value, float) else trt.PluginFieldType.INT32


def _field(value):
    import numpy as np

    return (np.array([value], np.float32 if isinstance(value, float) else np.int32),)


def refusal(action):
    """What an action is refused with."""
    try:
        action()
    except Exception as error:
        return f"{type(error).__name__}: {error}"
    return "nothing was refused"


def main():
    """Register everything, drive the cases of standard input, write a JSON of what NVIDIA's code got."""
    registry = replace_libraries()
    register_all(trtp, lambda: "9.0")
    task = json.load(sys.stdin)
    report = {
        "registered": sorted(name for _, name in registry.creators),
        "cases": [drive(registry, case) for case in task["cases"]],
        "refusals": [refusal(lambda case=case: drive(registry, case)) for case in task["refused"]],
        "twice": refusal(lambda: register_all(trtp, lambda: "9.0")),
    }
    sys.stdout.write("\n" + json.dumps(report) + "\n")
