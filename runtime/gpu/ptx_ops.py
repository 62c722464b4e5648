"""The ops between engine segments as PTX, compiled for the device when they are bound."""

from collections.abc import Callable, Sequence
from typing import Any

import numpy as np

from ttc.base.distribution import install
from ttc.errors import BackendError, MissingDependencyError
from ttc.formats.program import Instruction
from ttc.runtime.gpu.device import Device, DeviceArray, Enqueue, Scope

__all__ = ["PtxOps"]


class PtxOps:
    """Binds op instructions to kernels. Kernels are compiled once per device and set of constants.

    Args:
        compute_dtype: of the bundle.
        compile_launch: `ttc.plugins.ptx.compile_launch`; None imports it, and triton with it, when needed.
    """

    def __init__(
        self, device: Device, compute_dtype: str, compile_launch: Callable[[Any, str], Any] | None = None
    ) -> None:
        self._device, self._compute_dtype = device, compute_dtype
        self._compile = compile_launch
        self._loaded: dict[Any, tuple[Any, Any]] = {}

    def __call__(
        self,
        scope: Scope,
        instruction: Instruction,
        inputs: Sequence[DeviceArray],
        outputs: Sequence[DeviceArray],
    ) -> Enqueue:
        """One launch: input addresses, int32 dimensions, output addresses."""
        kernels, launches, compile_launch = self._kernels()
        kernel_spec = kernels.get(instruction.name)
        if kernel_spec is None:
            raise BackendError(
                f"no kernel for the op {instruction.name}; build the engines with --form whole"
            )
        dims = kernel_spec.op.dims([array.shape for array in inputs], instruction.attributes)
        words = kernel_spec.op.words([array.dtype for array in inputs])
        problem = launches.Problem(
            dims,
            instruction.attributes,
            self._compute_dtype,
            stored=launches.stored_dtype(words),
            target=self._device.compute_capability,
        )
        launch = kernel_spec.bind(problem, kernel_spec.select_tile(dims))
        self._check(instruction, (*inputs, *outputs), (*launch.inputs, *launch.outputs))
        key = (
            instruction.name,
            launch.tile.name,
            *sorted(launch.constants.items()),
            launch.inputs,
            launch.outputs,
        )
        if key not in self._loaded:
            compiled = compile_launch(launch, self._device.compute_capability)
            kernel = self._device.load_kernel(compiled.name, compiled.ptx.encode(), compiled.shared_bytes)
            self._loaded[key] = (compiled, kernel)
        compiled, kernel = self._loaded[key]
        grid = launch.programs(dims)
        arguments = [
            *(array.address for array in inputs),
            *(np.int32(value) for value in launch.integer_values(dims)),
            *(array.address for array in outputs),
        ]
        if 0 in grid:
            return lambda: None
        return lambda: self._device.launch(
            kernel, grid, 32 * compiled.num_warps, compiled.shared_bytes, arguments
        )

    def _kernels(self) -> tuple[Any, Any, Callable[[Any, str], Any]]:
        try:
            from ttc.plugins import launch
            from ttc.plugins.kernels import KERNELS
            from ttc.plugins.ptx import compile_launch
        except ImportError:
            raise MissingDependencyError(
                "what runs beside engines are Triton kernels, and triton is not installed; "
                f"install it with: {install('kernels')}"
            ) from None
        return KERNELS, launch, self._compile or compile_launch

    @staticmethod
    def _check(instruction: Instruction, arrays: Sequence[DeviceArray], dtypes: Sequence[str]) -> None:
        for array, dtype in zip(arrays, dtypes, strict=True):
            if array.dtype != dtype:
                raise BackendError(
                    f"the op {instruction.name} is given {array.dtype} where its kernel takes {dtype}; "
                    "build the engines again from this bundle"
                )
