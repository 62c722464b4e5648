"""Runs an op by its Triton kernels: on CUDA tensors, or on CPU tensors in Triton's interpreter.

`run_triton` takes the place of `ttc.plugins.naive.run_naive`. The interpreter is chosen by the environment
variable TRITON_INTERPRET=1, which has to be set before this module is imported.
"""

from collections.abc import Mapping, Sequence
from typing import Any

import torch
import triton
from torch import Tensor

from ttc.base.dtypes import is_packed
from ttc.errors import BackendError, InputError
from ttc.plugins.bound_launch import BoundLaunch, BoundOp, Output
from ttc.plugins.kernels import KERNELS
from ttc.plugins.launch import ALIGNMENT, KernelSpec, Problem, launches_of, stored_dtype
from ttc.plugins.old_interpreter import mend
from ttc.plugins.ops import OpSpec, TensorSpec
from ttc.plugins.torch_tensors import dtype_names, logical_shapes, tile_sides

__all__ = ["run_triton"]

# Op and kinds of its tensors → its launches. Of a call after the first of its kind only alignment is checked:
# a step without CUDA graphs has some 220 calls.
_bound: dict[tuple[Any, ...], BoundOp] = {}
_MOST_BOUND = 4096
# Op → places in `out` and among the inputs of what may lie over each other.
_overlaps: dict[str, list[tuple[int, int]]] = {}

if triton.knobs.runtime.interpret:
    mend()


def run_triton(
    op: OpSpec,
    *inputs: Tensor,
    out: Sequence[Tensor | None] | None = None,
    tile: int | None = None,
    **attributes: Any,
) -> tuple[Tensor, ...]:
    """Return the outputs of one op, each of its launches on the current stream.

    Args:
        op: a primitive op or a composite one.
        *inputs: the op's inputs, on one device, contiguous and 16-byte aligned; those that the kernels name
            as strided may be columns of a wider matrix, and those named as tiled may lie in tiles.
        out: tensors to write the outputs into, in the signature's order, instead of new ones; None among
            them: a new one. Between the parts of a composite op there are still tensors made here; whoever
            needs those at fixed addresses (a CUDA graph takes them from its own pool) calls the parts.
            `MambaAdvance` may be given its own input states. `MambaMixer` may be given the pool of scan
            states that it reads, and then writes its rows in it; `PageWrite` the pages, without which it
            writes into a copy of them.
        tile: index into the choices of block sizes of an op of one launch, which a fused op then is; by
            default what suits the sizes.
        **attributes: the op's attributes.

    Raises:
        InputError: a wrong number of tensors, dtype, shape, stride, alignment or attribute; names it.
        BackendError: CPU tensors without the interpreter, or CUDA tensors with it; Triton fails.
    """
    targets = None if out is None else tuple(None if tensor is None else _kind(tensor) for tensor in out)
    key = (op.name, tile, *attributes.items(), *map(_kind, inputs), targets, *_over(op, inputs, out))
    bound = _bound.get(key)
    if bound is None or not bound.is_of(KERNELS):
        bound = _bind(op, inputs, out, tile, attributes)
        if len(_bound) >= _MOST_BOUND:
            _bound.clear()
        _bound[key] = bound
    else:
        if bound.device.type == "cpu":
            _check_interpreter(op, bound.device)
        _check_alignments(op, inputs, out)
    return bound.run(inputs, out)


def _kind(tensor: Tensor) -> tuple[Any, ...]:
    """Return all of a tensor that decides how a kernel is launched, but for where it starts."""
    return tensor.shape, tensor.stride(), tensor.dtype, tensor.device


def _over(op: OpSpec, inputs: Sequence[Tensor], out: Sequence[Tensor | None] | None) -> list[bool]:
    """Return for outputs that may lie over an input (`KernelSpec.over`) whether they do."""
    if out is None:
        return []
    if op.name not in _overlaps:
        specs = [KERNELS[name] for name in {*op.launches, *op.parts}]
        outputs, named = ([spec.name for spec in specs_] for specs_ in (op.outputs, op.inputs))
        _overlaps[op.name] = [
            (outputs.index(name), named.index(source))
            for spec in specs
            for name, source in spec.over.items()
            if name in outputs and source in named
        ]
    return [
        place < len(out) and source < len(inputs) and _same_start(out[place], inputs[source])
        for place, source in _overlaps[op.name]
    ]


def _same_start(a: Tensor | None, b: Tensor) -> bool:
    return a is not None and a.data_ptr() == b.data_ptr()


def _bind(
    op: OpSpec,
    inputs: Sequence[Tensor],
    out: Sequence[Tensor | None] | None,
    tile: int | None,
    attributes: Mapping[str, Any],
) -> BoundOp:
    """Check everything, and decide how the op is launched over tensors of these kinds."""
    if len(op.launches) > 1 and tile is not None:
        raise InputError(f"{op.name}: tile is for ops of one launch; this one has {', '.join(op.launches)}")
    if out is not None and len(out) != len(op.outputs):
        raise InputError(f"{op.name}: out holds {len(out)} tensors, expected {_names(op.outputs)}")
    _check_inputs(op, inputs, attributes)
    given = zip((spec.name for spec in op.outputs), out or (), strict=out is not None)
    wanted = {name: (place, x) for place, (name, x) in enumerate(given) if x is not None}
    places = {spec.name: place for place, spec in enumerate(op.inputs)}
    tensors = list(inputs)
    dims = op.dims(logical_shapes(op, inputs), attributes) if op.fused else {}
    launches = []
    for name in op.launches if tile is not None else launches_of(op, dims, KERNELS):
        spec = KERNELS[name]
        own = {key: attributes[key] for key in spec.op.attributes}
        launch = _bind_launch(spec, places, tensors, wanted, tile, own)
        launches.append(launch)
        for output, tensor in zip(spec.op.outputs, launch.outputs, strict=True):
            places[output.name] = len(tensors)
            # Nothing is in it: what takes it asks for its shape and dtype.
            tensors.append(torch.empty(tensor.shape, dtype=tensor.dtype, device="meta"))
    return BoundOp(tuple(launches), tuple(places[spec.name] for spec in op.outputs), inputs[0].device)


def _bind_launch(
    kernel_spec: KernelSpec,
    places: Mapping[str, int],
    tensors: Sequence[Tensor],
    wanted: Mapping[str, tuple[int, Tensor]],
    tile: int | None,
    attributes: Mapping[str, Any],
) -> BoundLaunch:
    """Do that for one launch, whose inputs have places among these tensors; wanted: output name → place in
    `out`, and the tensor there.
    """
    op, device = kernel_spec.op, tensors[0].device
    own = tuple(places[spec.name] for spec in op.inputs)
    inputs = [tensors[place] for place in own]
    shapes = logical_shapes(op, inputs)
    dims = op.dims(shapes, attributes)
    words = op.words(dtype_names(op, inputs))
    on_cpu = device.type == "cpu"
    over = {
        name: tensors[places[source]]
        for name, source in kernel_spec.over.items()
        if name in wanted and _same_start(wanted[name][1], tensors[places[source]])
    }
    problem = Problem(
        dims,
        attributes,
        words["compute"],
        interpreted=on_cpu,
        stored=stored_dtype(words),
        target=None if on_cpu else "{}.{}".format(*torch.cuda.get_device_capability(device)),
        token_strides=_token_strides(kernel_spec, inputs),
        weight_tiles=tile_sides(op, inputs),
        over=frozenset(over),
    )
    select = kernel_spec.select_wide or kernel_spec.select_tile
    launch = kernel_spec.bind(problem, select(dims) if tile is None else tile)
    outputs = []
    expected = zip(op.outputs, launch.outputs, op.output_shapes(shapes, attributes), strict=True)
    for spec, dtype_name, size in expected:
        dtype = getattr(torch, dtype_name)
        shape = tuple(over[spec.name].shape if spec.name in over else size)
        place, tensor = wanted.get(spec.name, (None, None))
        if tensor is not None:
            _check_out(op, spec.name, tensor, dtype, shape, device)
        copied = op.in_place and spec.name not in over
        source = places[kernel_spec.over[spec.name]] if copied else None
        outputs.append(Output(shape, dtype, place, source))
    return BoundLaunch(
        spec=kernel_spec,
        launch=launch,
        inputs=own,
        as_bytes=frozenset(place for place in own if tensors[place].dtype == torch.float8_e4m3fn),
        outputs=tuple(outputs),
        programs=launch.programs(dims),
        integers=launch.integer_values(dims),
        options={
            **launch.constants,
            "num_warps": launch.tile.num_warps,
            "num_stages": launch.tile.num_stages,
            "enable_fp_fusion": True,
        },
    )


def _check_out(
    op: OpSpec, name: str, tensor: Tensor, dtype: torch.dtype, shape: tuple[int, ...], device: torch.device
) -> None:
    _check_kind(op, name, tensor, dtype, device)
    _check_dense(op, name, tensor)
    if tuple(tensor.shape) != shape:
        raise InputError(f"{op.name}: out for {name} has shape {tuple(tensor.shape)}, expected {shape}")


def _check_interpreter(op: OpSpec, device: torch.device) -> None:
    if (device.type == "cpu") != triton.knobs.runtime.interpret:
        raise BackendError(
            f"{op.name}: tensors on the CPU need Triton's interpreter; set TRITON_INTERPRET=1 before "
            "ttc.plugins.triton is imported, or move the tensors to a CUDA device"
            if device.type == "cpu"
            else f"{op.name}: TRITON_INTERPRET is set, which is for tensors on the CPU; unset it"
        )


def _check_alignments(op: OpSpec, inputs: Sequence[Tensor], out: Sequence[Tensor | None] | None) -> None:
    """Check where tensors start, which alone may differ between two calls of one kind."""
    for spec, tensor in zip(op.inputs, inputs, strict=True):
        if tensor.data_ptr() % ALIGNMENT and spec.name not in _strided(op):
            _check_dense(op, spec.name, tensor)
    for spec, given in zip(op.outputs, out or (), strict=out is not None):
        if given is not None and given.data_ptr() % ALIGNMENT:
            _check_dense(op, spec.name, given)


def _strided(op: OpSpec) -> set[str]:
    return {name for part in op.launches for name in KERNELS[part].strided}


def _check_inputs(op: OpSpec, inputs: Sequence[Tensor], attributes: Mapping[str, Any]) -> None:
    if len(inputs) != len(op.inputs):
        raise InputError(f"{op.name}: {len(inputs)} inputs, expected {_names(op.inputs)}")
    if attributes.keys() != op.attributes.keys():
        raise InputError(
            f"{op.name}: attributes {sorted(attributes)}, expected {sorted(op.attributes) or 'none'}"
        )
    device = inputs[0].device
    if device.type not in ("cpu", "cuda"):
        raise InputError(f"{op.name}: {op.inputs[0].name} is on {device}; kernels run on cuda or cpu")
    _check_interpreter(op, device)
    words = op.words(dtype_names(op, inputs))
    strided = _strided(op)
    tiled = {name for part in op.launches for name in KERNELS[part].tiled}
    if wrong := tile_sides(op, inputs).keys() - tiled:
        raise InputError(
            f"{op.name}: {', '.join(sorted(wrong))} in tiles, but no kernel of it reads "
            f"{', '.join(sorted(tiled)) or 'anything'} so; give it in rows (ttc.plugins.weight_tiles.in_rows)"
        )
    for spec, tensor in zip(op.inputs, inputs, strict=True):
        dtype = spec.dtype_in(words)
        _check_kind(op, spec.name, tensor, torch.uint8 if is_packed(dtype) else getattr(torch, dtype), device)
        if spec.name not in strided:
            _check_dense(op, spec.name, tensor)
        elif tensor.dim() == 3 and _token_stride(tensor) is None:
            raise InputError(
                f"{op.name}: {spec.name} has strides {tensor.stride()} for shape {tuple(tensor.shape)}; the "
                "last must be 1 and tokens equally far apart, over all rows: call .contiguous()"
            )


def _token_strides(kernel_spec: KernelSpec, inputs: Sequence[Tensor]) -> dict[str, int]:
    """Return strided input → elements from one token to the next, for those that are not dense."""
    named = zip((spec.name for spec in kernel_spec.op.inputs), inputs, strict=True)
    strides = {name: _token_stride(tensor) for name, tensor in named if name in kernel_spec.strided}
    widths = {spec.name: tensor.shape[-1] for spec, tensor in zip(kernel_spec.op.inputs, inputs, strict=True)}
    return {name: stride for name, stride in strides.items() if stride is not None and stride != widths[name]}


def _token_stride(tensor: Tensor) -> int | None:
    """Return the elements from one of the B·L tokens of (B, L, X) to the next; None where they differ."""
    B, L, X = tensor.shape
    rows, tokens, inner = tensor.stride()
    if X > 1 and inner != 1:
        return None
    if L == 1:
        return rows if B > 1 else max(tokens, X)
    return tokens if B == 1 or rows == L * tokens else None


def _check_kind(op: OpSpec, name: str, tensor: Tensor, dtype: torch.dtype, device: torch.device) -> None:
    if tensor.dtype != dtype:
        raise InputError(f"{op.name}: {name} is {tensor.dtype}, expected {dtype}")
    if tensor.device != device:
        raise InputError(f"{op.name}: {name} is on {tensor.device}, the first input on {device}")


def _check_dense(op: OpSpec, name: str, tensor: Tensor) -> None:
    if not tensor.is_contiguous():
        raise InputError(
            f"{op.name}: {name} has strides {tensor.stride()} for shape {tuple(tensor.shape)}; "
            "it must be contiguous: call .contiguous()"
        )
    if tensor.data_ptr() % ALIGNMENT:
        raise InputError(
            f"{op.name}: {name} starts {tensor.data_ptr() % ALIGNMENT} bytes past a multiple of "
            f"{ALIGNMENT}; kernels need that alignment: call .clone()"
        )


def _names(tensors: Sequence[TensorSpec]) -> str:
    return f"{len(tensors)}: {', '.join(spec.name for spec in tensors)}"
