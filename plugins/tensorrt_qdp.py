"""Makes a TensorRT plugin of a primitive op: declaration, tactics and a kernel compiled ahead of time.

Works on the module `tensorrt.plugin` it is given and imports neither tensorrt nor, before a kernel is asked
for, triton. What TensorRT 11.4 demands and does not say: attribute names and order equal everywhere, all of
them passed to the kernel's function, outputs after them; a return annotation; tactics that are positive;
int arguments wrapped as SymInt32; an int never on the left of a symbolic dimension.
"""

import inspect
import itertools
from collections.abc import Callable, Mapping, Sequence
from types import GenericAlias, ModuleType
from typing import Any, Final

from ttc.base.dims import letters
from ttc.base.dtypes import tensorrt_dtypes, tensorrt_format, tensorrt_name
from ttc.errors import BackendError
from ttc.plugins.launch import Dim, KernelSpec, Launch, Problem, stored_dtype
from ttc.plugins.ops import CHOICES, DOMAIN, OpSpec, with_group_scale

__all__ = ["Target", "register_primitive"]

# Compute capability to compile for, such as "9.0"; asked when TensorRT asks for a kernel.
Target = Callable[[], str]

_NAMES: Final = {tensorrt_name(name): name for name in tensorrt_dtypes()}
_ATTRIBUTE_TYPES: Final[Mapping[str, type]] = {"int": int, "float": float}


def register_primitive(trtp: ModuleType, op: OpSpec, target: Target) -> None:
    """Register one primitive op as the plugin `ttc::<name>`, for ahead-of-time use.

    Args:
        trtp: the module `tensorrt.plugin`.
        op: the op. Its kernel imports triton, so it is imported when TensorRT asks for tactics.
        target: compute capability to compile for.
    """
    identity = f"{DOMAIN}::{op.name}"

    def kernel() -> KernelSpec:
        kernel_spec: KernelSpec = op.load("kernel")
        return kernel_spec

    trtp.register(identity)(_declaration(trtp, op))
    trtp.autotune(identity)(_autotune(trtp, op, kernel))
    trtp.aot_impl(identity)(_ahead_of_time(trtp, op, kernel, target))


def _declaration(trtp: ModuleType, op: OpSpec) -> Callable[..., Any]:
    """Return a function: descriptions of the inputs and attributes → those of the outputs."""

    def declare(*inputs: Any, **attributes: Any) -> Any:
        words = _words(op, inputs)
        kinds = type(inputs[0].dtype)
        shapes = op.output_shapes([tuple(desc.shape_expr) for desc in inputs], attributes)
        outputs = tuple(
            trtp.from_shape_expr(tuple(shape), getattr(kinds, tensorrt_name(spec.dtype_in(words))))
            for spec, shape in zip(op.outputs, shapes, strict=True)
        )
        return outputs if len(outputs) > 1 else outputs[0]

    descriptions = (trtp.TensorDesc,) * len(op.outputs)
    returns = GenericAlias(tuple, descriptions) if len(descriptions) > 1 else trtp.TensorDesc
    return _signed(declare, _inputs(trtp, op) | _attributes(op), returns)


def _autotune(trtp: ModuleType, op: OpSpec, kernel: Callable[[], KernelSpec]) -> Callable[..., Any]:
    """Return a function that gives the supported dtypes, and a tactic for every choice of block sizes.

    Where measuring them would say nothing (`KernelSpec.work_in_values`) there is one: what suits the sizes
    that the engine is tuned for.
    """

    def combinations(*arguments: Any) -> Any:
        kernel_spec = kernel()
        tactics = _tactics(kernel_spec)
        if kernel_spec.work_in_values:
            shapes = [desc.shape for desc in arguments[: len(op.inputs)]]
            usual = [tuple(shape.opt if shape.is_dynamic else shape) for shape in shapes]
            tactics = [1 + kernel_spec.select_tile(op.dims(usual, {}))]
        return [trtp.AutoTuneCombination(",".join(_formats(op)), "LINEAR", tactics)]

    return _signed(
        combinations, _inputs(trtp, op) | _outputs(trtp, op), GenericAlias(list, (trtp.AutoTuneCombination,))
    )


def _ahead_of_time(
    trtp: ModuleType, op: OpSpec, kernel: Callable[[], KernelSpec], target: Target
) -> Callable[..., Any]:
    """Return a function that gives, for one choice of dtypes and tactic, the kernel's name, its PTX, its
    launch and its int arguments.
    """

    def implement(*arguments: Any) -> Any:
        from ttc.plugins.ptx import compile_launch

        inputs = arguments[: len(op.inputs)]
        attributes = dict(zip(op.attributes, arguments[len(op.inputs) : -2], strict=True))
        kernel_spec = kernel()
        capability = target()
        launch, dims = _bind(kernel_spec, inputs, attributes, arguments[-1], capability)
        compiled = compile_launch(launch, capability)
        x, y, z = launch.programs(dims, _minimum(trtp))
        threads, shared = 32 * compiled.num_warps, compiled.shared_bytes
        params = trtp.KernelLaunchParams(x, y, z, block_x=threads, shared_mem=shared)
        integers = [trtp.SymInt32(value) for value in launch.integer_values(dims)]
        return compiled.name, compiled.ptx, params, trtp.SymIntExprs.from_tuple(integers)

    returns = GenericAlias(tuple, (str, str, trtp.KernelLaunchParams, trtp.SymIntExprs))
    parameters = _inputs(trtp, op) | _attributes(op) | _outputs(trtp, op) | {"tactic": int}
    return _signed(implement, parameters, returns)


def _bind(
    kernel_spec: KernelSpec,
    inputs: Sequence[Any],
    attributes: Mapping[str, Any],
    tactic: int,
    target: str,
) -> tuple[Launch, dict[str, Dim]]:
    """Return the launch for one tactic, and the dimensions it depends on: ints where the network fixes them.

    Raises:
        BackendError: a dimension that has to be fixed is not, or an unknown tactic.
    """
    shapes = [
        [size if size >= 0 else symbol for size, symbol in zip(desc.shape, desc.shape_expr, strict=True)]
        for desc in inputs
    ]
    dims = kernel_spec.op.dims(shapes, attributes)
    fixed = {dim: size for dim, size in dims.items() if isinstance(size, int)}
    unknown = dims.keys() - fixed.keys() - attributes.keys()
    dynamic = sorted(dim for dim in unknown if not letters(dim) & set(kernel_spec.changing))
    if dynamic:
        raise BackendError(
            f"plugin {kernel_spec.op.name}: dimensions {', '.join(dynamic)} are dynamic in the network; only "
            f"{', '.join(kernel_spec.changing)} may be. Export the bundle again; its graphs fix the others"
        )
    tactics = _tactics(kernel_spec)
    if tactic not in tactics:
        raise BackendError(
            f"plugin {kernel_spec.op.name}: tactic {tactic} does not exist; there are 1 to {tactics[-1]}"
        )
    words = _words(kernel_spec.op, inputs)
    problem = Problem(fixed, attributes, words["compute"], stored=stored_dtype(words), target=target)
    return kernel_spec.bind(problem, tactic - 1), dims


def _tactics(kernel_spec: KernelSpec) -> list[int]:
    return [1 + number for number, tile in enumerate(kernel_spec.tiles) if not tile.wide]


def _minimum(trtp: ModuleType) -> Callable[[Dim, Dim], Dim]:
    def minimum(a: Dim, b: Dim) -> Dim:
        return min(a, b) if isinstance(a, int) and isinstance(b, int) else trtp.min(a, b)

    return minimum


def _words(op: OpSpec, inputs: Sequence[Any]) -> dict[str, str]:
    return op.words([_NAMES.get(desc.dtype.name, desc.dtype.name) for desc in inputs])


def _formats(op: OpSpec) -> list[str]:
    """Return the formats of each tensor: number k of all together are the k-th combination that it takes.

    Tensors whose dtype is the same in all of them say it once.
    """
    tensors = (*op.inputs, *op.outputs)
    choices = [word for word in CHOICES if any(spec.dtype == word for spec in tensors)]
    combinations = [
        with_group_scale(dict(zip(choices, chosen, strict=True)))
        for chosen in itertools.product(*(CHOICES[word] for word in choices))
    ]
    return [
        "|".join(tensorrt_format(spec.dtype_in(words)) for words in combinations)
        if spec.dtype in combinations[0]
        else tensorrt_format(spec.dtype)
        for spec in tensors
    ]


def _inputs(trtp: ModuleType, op: OpSpec) -> dict[str, Any]:
    return {spec.name: trtp.TensorDesc for spec in op.inputs}


def _attributes(op: OpSpec) -> dict[str, Any]:
    return {name: _ATTRIBUTE_TYPES[kind] for name, kind in op.attributes.items()}


def _outputs(trtp: ModuleType, op: OpSpec) -> dict[str, Any]:
    return {"outputs": GenericAlias(tuple, (trtp.TensorDesc,) * len(op.outputs))}


def _signed(function: Callable[..., Any], parameters: Mapping[str, Any], returns: Any) -> Callable[..., Any]:
    """Return the function with a signature that names every tensor and attribute, which TensorRT reads."""
    kind = inspect.Parameter.POSITIONAL_OR_KEYWORD
    function.__signature__ = inspect.Signature(  # type: ignore[attr-defined]
        [inspect.Parameter(name, kind, annotation=annotation) for name, annotation in parameters.items()],
        return_annotation=returns,
    )
    return function
