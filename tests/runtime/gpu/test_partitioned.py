"""The buffer plan of a cut program, and what its runner refuses; tests/exporter/passes runs some."""

import itertools

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tests.support.fake_device import FakeDevice
from ttc.errors import BundleError
from ttc.formats.program import ENGINE, OP, Buffer, Instruction, Program
from ttc.runtime.gpu.device import ALIGNMENT, Scope
from ttc.runtime.gpu.partitioned import PartitionedGraph, plan_buffers

SIZES = {"B": 2, "L": 3, "C": 8, "R": 1}


def chain(*lengths):
    """in → between 0 → between 1 → … → out, the buffers of these lengths."""
    names = ["in", *(f"between {i}" for i in range(len(lengths))), "out"]
    buffers = {"in": Buffer("input", "float32", ("B", 4)), "out": Buffer("output", "float32", ("B", 4))}
    for name, length in zip(names[1:-1], lengths, strict=True):
        buffers[name] = Buffer("between", "float32", (length,))
    instructions = [Instruction(OP, "x", (a,), (b,), {}) for a, b in itertools.pairwise(names)]
    return Program(buffers, tuple(instructions))


def test_buffers_share_memory_where_their_lifetimes_do_not_meet():
    plan = plan_buffers(chain(1000, 1000, 1000, 1000), SIZES)
    assert plan.offsets == {"between 0": 0, "between 1": 4096, "between 2": 0, "between 3": 4096}
    assert plan.arena_bytes == 8192
    assert plan.shapes["in"] == (2, 4)


@st.composite
def programs(draw):
    """Programs whose instructions read any buffers written before."""
    buffers = {"in": Buffer("input", "float32", (4,))}
    instructions, ready = [], ["in"]
    for i in range(draw(st.integers(1, 12))):
        made = [f"{i}.{k}" for k in range(draw(st.integers(1, 3)))]
        read = draw(st.lists(st.sampled_from(ready), min_size=1, max_size=3, unique=True))
        for name in made:
            dtype = draw(st.sampled_from(["float32", "bfloat16", "int64"]))
            buffers[name] = Buffer("between", dtype, (draw(st.integers(1, 400)), "B"))
        instructions.append(Instruction(ENGINE, f"e{i}", tuple(read), tuple(made), {}))
        ready += made
    return Program(buffers, tuple(instructions))


@given(programs())
def test_live_buffers_never_overlap(program):
    program.check("p")
    plan = plan_buffers(program, SIZES)
    size = {"float32": 4, "bfloat16": 2, "int64": 8}
    spans = {}
    for name, offset in plan.offsets.items():
        buffer = program.buffers[name]
        assert offset % ALIGNMENT == 0
        nbytes = buffer.shape[0] * SIZES["B"] * size[buffer.dtype]
        assert offset + nbytes <= plan.arena_bytes
        touching = [k for k, s in enumerate(program.instructions) if name in (*s.inputs, *s.outputs)]
        spans[name] = (offset, offset + nbytes, min(touching), max(touching))
    for a in spans.values():
        for b in spans.values():
            if a is not b and a[2] <= b[3] and b[2] <= a[3]:
                assert a[1] <= b[0] or b[1] <= a[0]


def bound(program, **changes):
    scope = Scope(FakeDevice())
    tensors = {"in": scope.array("float32", (2, 4)), "out": scope.array("float32", (2, 4))} | changes
    seen = []

    def bind(scope, instruction, inputs, outputs):
        seen.append([array.address for array in (*inputs, *outputs)])
        return lambda: None

    PartitionedGraph(program, bind, bind).bind(scope, tensors, SIZES)
    return tensors, seen


def test_instructions_get_the_addresses_of_the_plan():
    tensors, seen = bound(chain(7, 9))
    assert seen[0][0] == tensors["in"].address
    assert seen[-1][1] == tensors["out"].address
    assert seen[0][1] == seen[1][0]
    assert seen[1][1] == seen[2][0]


@pytest.mark.parametrize("wrong", ["missing", "dtype", "shape"])
def test_a_tensor_that_does_not_fit_is_refused(wrong):
    scope = Scope(FakeDevice())
    made = {"dtype": ("int32", (2, 4)), "shape": ("float32", (4, 2)), "missing": ("float32", (1,))}[wrong]
    with pytest.raises(BundleError, match=r"the program's input 'in' is float32 \[2, 4\], it was given"):
        bound(chain(7), **{"in": None if wrong == "missing" else scope.array(*made)})


def test_a_dimension_without_a_size_is_refused():
    program = Program({"in": Buffer("input", "float32", ("Q",))}, ())
    with pytest.raises(BundleError, match=r"a dimension 'Q', for which there is no size"):
        plan_buffers(program, SIZES)
