"""A cut graph as a program: engines and kernel launches in order, and the buffers between them.

Where a compiler takes no plugins, a graph is cut at the `ttc` ops. What is left between them are segments,
each an engine; segments that differ only in names share one. The program says how they are strung together
again:

    buffers    {name: {role, dtype, shape}}: every tensor that crosses an instruction.
               role: "input", "weight", "output" or "between"
               shape: numbers, and texts over B, L, C and R ("6*B*L")
    steps      the instructions in order of execution; each {kind, name, inputs, outputs, attributes}
               kind "engine": `name` is the engine, its tensors in_0, in_1, … and out_0, out_1, … are bound to
               the buffers listed in `inputs` and `outputs`
               kind "op": `name` is a primitive op of `ttc.plugins.table`, one launch with these attributes

A buffer is written by one instruction at most and only read by later ones, so the program runs on any
executor of segments, and on one stream without waiting.
"""

import dataclasses
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from ttc.base.quoting import escaped
from ttc.errors import BundleError
from ttc.formats.strictjson import Fields, quoted

__all__ = ["ENGINE", "OP", "ROLES", "Buffer", "Instruction", "Program"]

ENGINE, OP = "engine", "op"
ROLES = ("input", "weight", "output", "between")


@dataclass(frozen=True, slots=True)
class Buffer:
    """One tensor that crosses an instruction; see the module's text."""

    role: str
    dtype: str
    shape: tuple[int | str, ...]


@dataclass(frozen=True, slots=True)
class Instruction:
    """One engine call or one kernel launch."""

    kind: str
    name: str
    inputs: tuple[str, ...]
    outputs: tuple[str, ...]
    attributes: Mapping[str, int | float]


@dataclass(frozen=True, slots=True)
class Program:
    """One graph of a bundle in cut form."""

    buffers: Mapping[str, Buffer]
    instructions: tuple[Instruction, ...]

    def to_dict(self) -> dict[str, Any]:
        """Return it ready for JSON."""
        return {
            "buffers": {name: _plain(buffer) for name, buffer in self.buffers.items()},
            "steps": [_plain(each) for each in self.instructions],
        }

    @classmethod
    def take(cls, fields: Fields, where: str) -> "Program":
        """Read what `to_dict` wrote; raise `BundleError` for anything else."""
        buffers = fields.each("buffers", _buffer)
        instructions = tuple(
            _instruction(Fields(each, f"{where}: steps", BundleError)) for each in fields.items("steps")
        )
        fields.end()
        program = cls(buffers, instructions)
        program.check(where)
        return program

    def check(self, where: str) -> None:
        """Raise `BundleError` unless every buffer exists and is written once, before it is read."""
        ready = {name for name, buffer in self.buffers.items() if buffer.role in ("input", "weight")}
        for i, each in enumerate(self.instructions):
            step = f"{where}: step {i} ({escaped(each.name)[:100]})"
            for name in (*each.inputs, *each.outputs):
                if name not in self.buffers:
                    raise BundleError(f"{step} names the unknown buffer {quoted(name)}")
            if missing := [name for name in each.inputs if name not in ready]:
                raise BundleError(f"{step} reads {quoted(missing[0])} before it is written")
            if twice := [name for name in each.outputs if name in ready]:
                raise BundleError(f"{step} writes {quoted(twice[0])} a second time")
            ready.update(each.outputs)
        if unwritten := sorted(self.buffers.keys() - ready):
            raise BundleError(f"{where}: no step writes {quoted(unwritten[0])}")

    @property
    def engines(self) -> tuple[str, ...]:
        """Names of its engines, in order of first use."""
        return tuple(dict.fromkeys(each.name for each in self.instructions if each.kind == ENGINE))


def _plain(item: Buffer | Instruction) -> dict[str, Any]:
    found = {field.name: getattr(item, field.name) for field in dataclasses.fields(item)}
    return {
        key: list(value) if isinstance(value, tuple) else dict(value) if isinstance(value, Mapping) else value
        for key, value in found.items()
    }


def _buffer(fields: Fields, name: str) -> Buffer:
    inner = fields.fields(name)
    role, dtype, shape = inner.string("role"), inner.string("dtype"), inner.items("shape")
    if role not in ROLES:
        inner.refuse("role", role, f"one of {', '.join(ROLES)}")
    dims = []
    for dim in shape:
        if not isinstance(dim, int | str) or isinstance(dim, bool):
            inner.refuse("shape", dim, "a number or a text")
        dims.append(dim)
    inner.end()
    return Buffer(role, dtype, tuple(dims))


def _instruction(fields: Fields) -> Instruction:
    kind = fields.string("kind")
    if kind not in (ENGINE, OP):
        fields.refuse("kind", kind, f"{ENGINE!r} or {OP!r}")
    made = Instruction(
        kind,
        fields.string("name"),
        fields.strings("inputs"),
        fields.strings("outputs"),
        fields.each("attributes", _number),
    )
    fields.end()
    return made


def _number(fields: Fields, name: str) -> int | float:
    value = fields.take(name)
    if not isinstance(value, int | float) or isinstance(value, bool):
        fields.refuse(name, value, "a number")
    return value
