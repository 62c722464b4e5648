"""What a profiler hooks into: the leaves of the stream, the instructions that they belong to, and the
engines' contexts.

Works at graph level 0 only, where the host starts every leaf: a captured one is seen once, and not timed.
"""

from collections.abc import Sequence
from typing import Any, Protocol

from ttc.formats.program import Instruction
from ttc.runtime.gpu.device import Device, DeviceArray, Enqueue, Scope
from ttc.runtime.gpu.partitioned import InstructionBinder

__all__ = ["Watch", "WatchedSteps"]


class Watch(Protocol):
    """Sees what engines and the kernels between them put on the stream."""

    def device(self, device: Device) -> Device:
        """The device to use in place of this one."""

    def instruction(self, instruction: Instruction, work: Enqueue) -> Enqueue:
        """The work to enqueue in place of that of one instruction of a program."""

    def context(self, name: str, engine: Any, context: Any) -> None:
        """TensorRT made an execution context of the engine `name`."""


class WatchedSteps:
    """Steps whose works go through a watch."""

    def __init__(self, bind: InstructionBinder, watch: Watch) -> None:
        self._bind, self._watch = bind, watch

    def __call__(
        self,
        scope: Scope,
        instruction: Instruction,
        inputs: Sequence[DeviceArray],
        outputs: Sequence[DeviceArray],
    ) -> Enqueue:
        """The instruction's work, watched."""
        return self._watch.instruction(instruction, self._bind(scope, instruction, inputs, outputs))
