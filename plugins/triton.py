"""Runs an op by its Triton kernels: on CUDA tensors, or on CPU tensors in Triton's interpreter.

`run_triton` takes the place of `ttc.plugins.naive.run_naive`. The interpreter is chosen by the environment
variable TRITON_INTERPRET=1, which has to be set before this module is imported.
"""

from collections.abc import Mapping, Sequence
from typing import Any

import torch
import triton
from torch import Tensor
from triton.errors import TritonError

from ttc.base.dtypes import is_packed
from ttc.errors import BackendError, InputError
from ttc.plugins.kernels import KERNELS
from ttc.plugins.launch import ALIGNMENT, KernelSpec, Launch, Problem, launches_of, stored_dtype
from ttc.plugins.ops import OpSpec, TensorSpec
from ttc.plugins.torch_tensors import dtype_names, logical_shapes

__all__ = ["run_triton"]


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
            as strided may be columns of a wider matrix.
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
    if len(op.launches) > 1 and tile is not None:
        raise InputError(f"{op.name}: tile is for ops of one launch; this one has {', '.join(op.launches)}")
    if out is not None and len(out) != len(op.outputs):
        raise InputError(f"{op.name}: out holds {len(out)} tensors, expected {_names(op.outputs)}")
    _check_inputs(op, inputs, attributes)
    named = dict(zip((spec.name for spec in op.inputs), inputs, strict=True))
    given = zip((spec.name for spec in op.outputs), out or (), strict=out is not None)
    wanted = {name: tensor for name, tensor in given if tensor is not None}
    dims = op.dims(logical_shapes(op, inputs), attributes) if op.fused else {}
    for name in op.launches if tile is not None else launches_of(op, dims, KERNELS):
        kernel_spec = KERNELS[name]
        own = {key: attributes[key] for key in kernel_spec.op.attributes}
        tensors = [named[spec.name] for spec in kernel_spec.op.inputs]
        named.update(_run_primitive(kernel_spec, tensors, wanted, tile, own))
    return tuple(named[spec.name] for spec in op.outputs)


def _run_primitive(
    kernel_spec: KernelSpec,
    inputs: Sequence[Tensor],
    wanted: Mapping[str, Tensor],
    tile: int | None,
    attributes: Mapping[str, Any],
) -> dict[str, Tensor]:
    """Launch one kernel; return output name → tensor, the wanted one if there is one of that name."""
    op, device = kernel_spec.op, inputs[0].device
    shapes = logical_shapes(op, inputs)
    dims = op.dims(shapes, attributes)
    words = op.words(dtype_names(op, inputs))
    on_cpu = device.type == "cpu"
    named = dict(zip((spec.name for spec in op.inputs), inputs, strict=True))
    over = {
        name: named[source]
        for name, source in kernel_spec.over.items()
        if name in wanted and wanted[name].data_ptr() == named[source].data_ptr()
    }
    problem = Problem(
        dims,
        attributes,
        words["compute"],
        interpreted=on_cpu,
        stored=stored_dtype(words),
        target=None if on_cpu else "{}.{}".format(*torch.cuda.get_device_capability(device)),
        token_strides=_token_strides(kernel_spec, inputs),
        over=frozenset(over),
    )
    launch = kernel_spec.bind(problem, kernel_spec.select_tile(dims) if tile is None else tile)
    outputs = {}
    expected = zip(op.outputs, launch.outputs, op.output_shapes(shapes, attributes), strict=True)
    for spec, dtype, shape in expected:
        if spec.name in over:
            shape = list(over[spec.name].shape)
        if spec.name in wanted:
            outputs[spec.name] = wanted[spec.name]
            _check_kind(op, spec.name, wanted[spec.name], getattr(torch, dtype), device)
            _check_dense(op, spec.name, wanted[spec.name])
            if tuple(wanted[spec.name].shape) != tuple(shape):
                raise InputError(
                    f"{op.name}: out for {spec.name} has shape {tuple(wanted[spec.name].shape)}, "
                    f"expected {tuple(shape)}"
                )
        else:
            outputs[spec.name] = torch.empty(shape, dtype=getattr(torch, dtype), device=device)
        if op.in_place and spec.name not in over:
            outputs[spec.name].copy_(named[kernel_spec.over[spec.name]])
    _run(launch, dims, inputs, tuple(outputs.values()))
    return outputs


def _run(
    launch: Launch, dims: Mapping[str, int], inputs: Sequence[Tensor], outputs: Sequence[Tensor]
) -> None:
    programs = launch.programs(dims)
    if 0 in programs:  # some dimension is 0: there is nothing to write
        return
    try:
        with torch.cuda.device_of(inputs[0]):
            launch.kernel[programs](
                *map(_as_kernel_takes_it, inputs),
                *launch.integer_values(dims),
                *outputs,
                **launch.constants,
                num_warps=launch.tile.num_warps,
                num_stages=launch.tile.num_stages,
                enable_fp_fusion=True,
            )
    except TritonError as error:
        raise BackendError(
            f"{launch.op}: Triton {triton.__version__} could not compile or launch the kernel with tile "
            f"{launch.tile.name} on {inputs[0].device}: {type(error).__name__}: {error}"
        ) from error


def _as_kernel_takes_it(tensor: Tensor) -> Tensor:
    """Floats of eight bits as bytes, as `ttc.base.dtypes.triton_pointer` says."""
    return tensor.view(torch.uint8) if tensor.dtype == torch.float8_e4m3fn else tensor


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
    if (device.type == "cpu") != triton.knobs.runtime.interpret:
        raise BackendError(
            f"{op.name}: tensors on the CPU need Triton's interpreter; set TRITON_INTERPRET=1 before "
            "ttc.plugins.triton is imported, or move the tensors to a CUDA device"
            if device.type == "cpu"
            else f"{op.name}: TRITON_INTERPRET is set, which is for tensors on the CPU; unset it"
        )
    words = op.words(dtype_names(op, inputs))
    strided = {name for part in op.launches for name in KERNELS[part].strided}
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
