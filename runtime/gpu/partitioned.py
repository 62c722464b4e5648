"""Runs a cut graph (`ttc.formats.program`): engine segments and kernel launches in order, over buffers
that never move.

The buffers between instructions lie in one arena and share its memory where their lifetimes do not meet: a
buffer lives from the instruction that writes it to the last one that reads it. What is planned here is the
same for any executor; on a GPU the segments are TensorRT-RTX engines and the ops kernels, on the CPU both can
be anything that computes.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Protocol

from ttc.base.dims import sizes_of
from ttc.base.dtypes import stored_bytes
from ttc.errors import BundleError
from ttc.formats.program import ENGINE, Buffer, Instruction, Program
from ttc.runtime.gpu.device import DeviceArray, Enqueue, Scope, aligned

__all__ = ["BufferPlan", "InstructionBinder", "PartitionedGraph", "plan_buffers"]


class InstructionBinder(Protocol):
    """Makes the work of one instruction over given tensors. Whatever it allocates, it allocates here, in the
    scope, and not in the work.
    """

    def __call__(
        self,
        scope: Scope,
        instruction: Instruction,
        inputs: Sequence[DeviceArray],
        outputs: Sequence[DeviceArray],
    ) -> Enqueue:
        """The work."""


@dataclass(frozen=True, slots=True)
class BufferPlan:
    """Where the buffers between instructions lie.

    Attributes:
        shapes: of every buffer of the program, in numbers.
        offsets: buffer → its first byte in the arena; only for those with the role "between".
        arena_bytes: size of the arena.
    """

    shapes: Mapping[str, tuple[int, ...]]
    offsets: Mapping[str, int]
    arena_bytes: int


def plan_buffers(program: Program, sizes: Mapping[str, int]) -> BufferPlan:
    """Lay out the buffers for these sizes of the letters B, L, C and R.

    The largest buffer first, each at the lowest offset that is free for its whole lifetime.
    """
    try:
        shapes = {name: sizes_of(buffer.shape, sizes) for name, buffer in program.buffers.items()}
    except KeyError as missing:
        raise BundleError(
            f"the program has a dimension {missing}, for which there is no size; build the engines again"
        ) from None
    lives = _lifetimes(program)
    nbytes = {name: aligned(_bytes(program.buffers[name], shapes[name])) for name in lives}
    offsets: dict[str, int] = {}
    for name in sorted(lives, key=lambda n: (-nbytes[n], n)):
        first, last = lives[name]
        taken = sorted(
            (offsets[other], offsets[other] + nbytes[other])
            for other in offsets
            if lives[other][0] <= last and first <= lives[other][1]
        )
        offset = 0
        for start, end in taken:
            if offset + nbytes[name] <= start:
                break
            offset = max(offset, end)
        offsets[name] = offset
    arena = max((offsets[name] + nbytes[name] for name in offsets), default=0)
    return BufferPlan(shapes, offsets, arena)


class PartitionedGraph:
    """A program with what runs its two kinds of instructions."""

    def __init__(self, program: Program, engines: InstructionBinder, ops: InstructionBinder) -> None:
        self.program = program
        self._engines, self._ops = engines, ops

    def bind(self, scope: Scope, tensors: Mapping[str, DeviceArray], sizes: Mapping[str, int]) -> Enqueue:
        """The work of one run: reads and writes `tensors` (inputs, weights and outputs by their names).

        All memory is allocated here, in the scope. The work enqueues the instructions in order, at the same
        addresses every time.
        """
        plan = plan_buffers(self.program, sizes)
        arena = scope.allocate(plan.arena_bytes)
        bound = {
            name: DeviceArray.at(arena, offset, self.program.buffers[name].dtype, plan.shapes[name])
            for name, offset in plan.offsets.items()
        }
        for name, buffer in self.program.buffers.items():
            if name not in bound:
                bound[name] = _matching(name, buffer, plan.shapes[name], tensors)
        instructions = [
            (self._engines if instruction.kind == ENGINE else self._ops)(
                scope,
                instruction,
                [bound[name] for name in instruction.inputs],
                [bound[name] for name in instruction.outputs],
            )
            for instruction in self.program.instructions
        ]

        def run() -> None:
            for instruction in instructions:
                instruction()

        return run


def _lifetimes(program: Program) -> dict[str, tuple[int, int]]:
    """First and last instruction that touches each buffer with the role "between"."""
    lives: dict[str, tuple[int, int]] = {}
    for i, instruction in enumerate(program.instructions):
        for name in (*instruction.outputs, *instruction.inputs):
            if program.buffers[name].role == "between":
                lives[name] = (lives.get(name, (i, i))[0], i)
    return lives


def _bytes(buffer: Buffer, shape: Sequence[int]) -> int:
    return stored_bytes(buffer.dtype, shape)


def _matching(
    name: str, buffer: Buffer, shape: tuple[int, ...], tensors: Mapping[str, DeviceArray]
) -> DeviceArray:
    found = tensors.get(name)
    if found is None or (found.dtype, found.shape) != (buffer.dtype, shape):
        given = "nothing" if found is None else f"{found.dtype} {list(found.shape)}"
        raise BundleError(
            f"the program's {buffer.role} {name!r} is {buffer.dtype} {list(shape)}, it was given {given}; "
            "build the engines again from this bundle"
        )
    return found
