"""An op's launches with everything decided that shapes, dtypes and strides decide.

What is left for a call is to make its outputs and to launch: no check, no shape, no grid is worked out again.
"""

import contextlib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch
import triton
from torch import Tensor
from triton.errors import TritonError

from ttc.errors import BackendError
from ttc.plugins.launch import KernelSpec, Launch

__all__ = ["BoundLaunch", "BoundOp", "Output"]


@dataclass(frozen=True, slots=True)
class Output:
    """An output of a launch.

    Attributes:
        shape, dtype: of a new tensor.
        given: place among the tensors that the caller wants outputs in; None: a new one.
        starts_as: place of the tensor that is copied into it before the launch; None: it starts as it is.
    """

    shape: tuple[int, ...]
    dtype: torch.dtype
    given: int | None
    starts_as: int | None


@dataclass(frozen=True, slots=True)
class BoundLaunch:
    """One of them. Tensors have a place: the op's inputs first, then outputs as launches make them.

    Attributes:
        spec: what it was bound from.
        launch: the kernel with its constants.
        inputs: places.
        as_bytes: those among `inputs` that are floats of eight bits (`ttc.base.dtypes.triton_pointer`).
        outputs: in the kernel's order.
        programs: the grid; with a 0 there is nothing to launch.
        integers: values of the int32 arguments.
        options: constants of the kernel, and how Triton compiles it.
    """

    spec: KernelSpec
    launch: Launch
    inputs: tuple[int, ...]
    as_bytes: frozenset[int]
    outputs: tuple[Output, ...]
    programs: tuple[int, int, int]
    integers: tuple[int, ...]
    options: Mapping[str, Any]

    def run(self, tensors: list[Tensor], out: Sequence[Tensor | None] | None, device: torch.device) -> None:
        """Launch over these tensors, and append the outputs to them.

        Raises:
            BackendError: Triton fails.
        """
        made = []
        for output in self.outputs:
            given = None if out is None or output.given is None else out[output.given]
            tensor = torch.empty(output.shape, dtype=output.dtype, device=device) if given is None else given
            if output.starts_as is not None:
                tensor.copy_(tensors[output.starts_as])
            made.append(tensor)
        if 0 not in self.programs:
            inputs = [
                tensors[place].view(torch.uint8) if place in self.as_bytes else tensors[place]
                for place in self.inputs
            ]
            try:
                self.launch.kernel[self.programs](*inputs, *self.integers, *made, **self.options)
            except TritonError as error:
                raise BackendError(
                    f"{self.launch.op}: Triton {triton.__version__} could not compile or launch the kernel "
                    f"with tile {self.launch.tile.name} on {device}: {type(error).__name__}: {error}"
                ) from error
        tensors.extend(made)


@dataclass(frozen=True, slots=True)
class BoundOp:
    """All of an op's.

    Attributes:
        launches: in order.
        results: places of the op's outputs.
        device: where it runs.
    """

    launches: tuple[BoundLaunch, ...]
    results: tuple[int, ...]
    device: torch.device

    def is_of(self, kernels: Mapping[str, KernelSpec]) -> bool:
        """Return whether these are the kernels it was bound from."""
        return all(kernels[each.launch.op] is each.spec for each in self.launches)

    def run(self, inputs: Sequence[Tensor], out: Sequence[Tensor | None] | None) -> tuple[Tensor, ...]:
        """Return the op's outputs for inputs of the shapes, dtypes and strides that it was bound for."""
        tensors = list(inputs)
        on = torch.cuda.device(self.device) if self.device.type == "cuda" else contextlib.nullcontext()
        with on:
            for each in self.launches:
                each.run(tensors, out, self.device)
        return tuple([tensors[place] for place in self.results])
