"""What a profiler hooks into: the operations of the stream, the instructions that they belong to, and the
engines' contexts.

Works without CUDA graphs only (graph level 0), where the host starts every operation: a captured one is seen
once, and not timed.
"""

from collections.abc import Sequence
from typing import Any, Protocol

from ttc.formats.program import Instruction
from ttc.runtime.gpu.device import Device, DeviceArray, Enqueue, Scope
from ttc.runtime.gpu.partitioned import InstructionBinder

__all__ = ["ProfiledBinder", "Profiler"]


class Profiler(Protocol):
    """Sees what engines and the kernels between them put on the stream."""

    def device(self, device: Device) -> Device:
        """The device to use in place of this one."""

    def instruction(self, instruction: Instruction, work: Enqueue) -> Enqueue:
        """The work to enqueue in place of that of one instruction of a program."""

    def context(self, name: str, engine: Any, context: Any) -> None:
        """TensorRT made an execution context of the engine `name`."""


class ProfiledBinder:
    """An instruction binder whose work goes through a profiler."""

    def __init__(self, bind: InstructionBinder, profiler: Profiler) -> None:
        self._bind, self._profiler = bind, profiler

    def __call__(
        self,
        scope: Scope,
        instruction: Instruction,
        inputs: Sequence[DeviceArray],
        outputs: Sequence[DeviceArray],
    ) -> Enqueue:
        """The instruction's work, profiled."""
        return self._profiler.instruction(instruction, self._bind(scope, instruction, inputs, outputs))
