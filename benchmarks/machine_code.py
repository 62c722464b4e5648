"""Reads assembled GPU code: its loops, how wide its loads are, which instructions multiply matrices."""

import re
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass

__all__ = ["Code", "Loop", "load_widths", "matrix_instructions", "read_code"]

_LABEL = re.compile(r"^(\.L_\w+):")
_INSTRUCTION = re.compile(r"/\*[0-9a-f]{4,}\*/\s+(.*?)\s*;")
_JUMP = re.compile(r"\bBRA\b.*`\((\.L_\w+)\)")
_PREDICATE = re.compile(r"^@!?U?P\w+\s+")
# Loads from global memory into registers and into shared memory.
_LOAD = re.compile(r"^(?:LDG|LDGSTS)\.\S*")
_WIDTHS = {"U8": 1, "S8": 1, "U16": 2, "S16": 2, "64": 8, "128": 16, "256": 32}
_MATRIX = re.compile(r"^U?T?C?[A-Z]*MMA\b")


@dataclass(frozen=True, slots=True)
class Loop:
    """Instructions first … last of a program, the last of which jumps to the first."""

    first: int
    last: int

    def within(self, other: "Loop") -> bool:
        """Return whether it lies inside another."""
        return self != other and other.first <= self.first and self.last <= other.last


@dataclass(frozen=True, slots=True)
class Code:
    """A program.

    Attributes:
        instructions: in order, without predicates.
        loops: in the order of their jumps.
    """

    instructions: Sequence[str]
    loops: Sequence[Loop]

    def of(self, loop: Loop) -> list[str]:
        """Return a loop's instructions, without padding."""
        return [each for each in self.instructions[loop.first : loop.last + 1] if not _is_padding(each)]

    @property
    def innermost(self) -> list[Loop]:
        """Loops that have none inside."""
        return [loop for loop in self.loops if not any(other.within(loop) for other in self.loops)]

    def hot(self) -> list[str]:
        """Return the instructions where time goes: of the innermost loop that multiplies matrices, else that
        loads the most in a pass, else the longest; of the whole program where there is no loop.
        """
        loops = [self.of(loop) for loop in self.innermost]
        if not loops:
            return [each for each in self.instructions if not _is_padding(each)]
        return max(loops, key=lambda loop: (bool(matrix_instructions(loop)), _loaded(loop), len(loop)))


def read_code(text: str) -> Code:
    """Return the program that nvdisasm wrote."""
    instructions: list[str] = []
    labels: dict[str, int] = {}
    loops: list[Loop] = []
    for line in text.splitlines():
        if label := _LABEL.match(line):
            labels[label[1]] = len(instructions)
        elif found := _INSTRUCTION.search(line):
            instruction = _PREDICATE.sub("", found[1])
            jump = _JUMP.search(instruction)
            # The jump to itself behind a program's end is padding too.
            if jump and jump[1] in labels and labels[jump[1]] < len(instructions):
                loops.append(Loop(labels[jump[1]], len(instructions)))
            instructions.append(instruction)
    return Code(instructions, loops)


def load_widths(instructions: Sequence[str]) -> Counter[int]:
    """Return how many loads from global memory there are of each width, bytes a thread."""
    return Counter(_width(each) for each in instructions if _LOAD.match(each))


def matrix_instructions(instructions: Sequence[str]) -> Counter[str]:
    """Return how often matrices are multiplied, by instruction without its modifiers."""
    return Counter(found[0] for each in instructions if (found := _MATRIX.match(each)))


def _loaded(instructions: Sequence[str]) -> int:
    return sum(width * count for width, count in load_widths(instructions).items())


def _width(load: str) -> int:
    modifiers = load.split()[0].split(".")
    return next((_WIDTHS[each] for each in modifiers if each in _WIDTHS), 4)


def _is_padding(instruction: str) -> bool:
    return instruction.startswith("NOP")
