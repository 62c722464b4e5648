"""The sizes of a foreign file's inputs: how they are given, what they fill in, and what is refused."""

import pytest

from ttc.commands.build import parse_shapes
from ttc.exporter.engines.foreign_ranges import input_records, output_records
from ttc.exporter.engines.network import NAMELESS, Network, NetworkTensor

IMAGE = NetworkTensor("x", "float32", ("n", 3, "h", "w"))
MASK = NetworkTensor("mask", "bool", ("n", NAMELESS))
SHAPE = NetworkTensor("s", "int64", (2,), is_shape=True)


def ranges(tensors, **texts):
    problems = []
    network = Network(tuple(tensors), (), 1)
    records = input_records(network, parse_shapes(texts), problems)
    return {record.name: (record.min, record.opt, record.max) for record in records}, problems


def test_by_dimension_and_by_input():
    sizes = {"min": "n:1,h:8,w:8", "opt": "n:2,h:8,w:16", "max": "n:4,h:32,w:32"}
    expected = ((1, 3, 8, 8), (2, 3, 8, 16), (4, 3, 32, 32))
    assert ranges([IMAGE], **sizes) == ({"x": expected}, [])
    by_input = {"min": "x:1x3x8x8", "opt": "x:2x3x8x16", "max": "x:4x3x32x32"}
    assert ranges([IMAGE], **by_input) == ({"x": expected}, [])
    assert ranges([IMAGE, MASK], **by_input, **{"": "mask:4x7"})[0]["mask"] == ((4, 7),) * 3


@pytest.mark.parametrize(
    ("given", "filled"),
    [
        ({"opt": "n:4"}, (4, 4, 4)),
        ({"max": "n:8"}, (8, 8, 8)),
        ({"min": "n:2"}, (2, 2, 2)),
        ({"min": "n:2", "max": "n:8"}, (2, 8, 8)),
        ({"min": "n:2", "opt": "n:4"}, (2, 4, 4)),
        ({"opt": "n:4", "max": "n:8"}, (4, 4, 8)),
        ({"": "n:4"}, (4, 4, 4)),
    ],
)
def test_what_is_left_out_means_what_it_means_to_trtexec(given, filled):
    found, problems = ranges([NetworkTensor("x", "float32", ("n",))], **given)
    assert not problems
    assert found["x"] == tuple((size,) for size in filled)


def test_values_of_an_input_that_decides_shapes():
    found, problems = ranges([SHAPE], min="s:1x4", max="s:8x-1")
    assert (found, problems[0]) == (
        {"s": ((1, 4), (8, -1), (8, -1))},
        "sizes of input 's' are min 1x4, opt 8x-1, max 8x-1; valid: min ≤ opt ≤ max in each",
    )
    assert ranges([SHAPE], max="s:8x4") == ({"s": ((8, 4),) * 3}, [])


def test_all_that_is_missing_is_told_at_once_with_a_line_to_copy():
    _, (problem,) = ranges([IMAGE, MASK, SHAPE, NetworkTensor("fixed", "float32", (4,))])
    assert "x (n, 3, h, w), mask (n, ?), s (2) (its values)" in problem
    options = problem.partition("as: ")[2]
    assert options.startswith("--min-shapes 'x:1x3x1x1,mask:1x1,s:1x1' --opt-shapes 'x:1x3x1x1")
    copied = dict(zip(("min", "opt", "max"), options.split("'")[1::2], strict=True))
    assert ranges([IMAGE, MASK, SHAPE], **copied)[1] == []


@pytest.mark.parametrize(
    ("tensors", "given", "complaint"),
    [
        ([IMAGE], {"": "y:1x3x8x8"}, "given for 'y', which the network has not; inputs: x (n, 3, h, w); dim"),
        ([IMAGE], {"": "n:1,h:1,w:1,c:1"}, "given for 'c'"),
        (
            [IMAGE],
            {"": "x:1x3x8"},
            "min sizes of input 'x' are 1x3x8; valid: sizes of the shape (n, 3, h, w)",
        ),
        ([IMAGE], {"": "x:1x4x8x8"}, "min sizes of input 'x' are 1x4x8x8; valid: sizes of the shape"),
        ([IMAGE], {"": "x:1x3x8x-8"}, "valid: no negative ones"),
        ([IMAGE], {"": "n:1x2,h:1,w:1"}, "min size of dimension 'n' is 1x2; valid: one number"),
        ([IMAGE], {"min": "x:2x3x8x8", "max": "x:1x3x8x8"}, "valid: min ≤ opt ≤ max in each"),
        ([SHAPE], {"": "s:3"}, "min sizes of input 's' are 3; valid: its 2 values"),
    ],
)
def test_sizes_that_do_not_fit(tensors, given, complaint):
    assert any(complaint in problem for problem in ranges(tensors, **given)[1])


def test_names_with_colons_and_commas():
    odd = [NetworkTensor("input:0", "float32", ("n",)), NetworkTensor("a,b", "float32", ("m", 2))]
    found, problems = ranges(odd, **{"": "input:0:4,'a,b':3x2"})
    assert (found["input:0"][0], found["a,b"][0], problems) == ((4,), (3, 2), [])


def test_a_name_of_both_an_input_and_a_dimension():
    both = [NetworkTensor("n", "float32", ("n", 3)), NetworkTensor("y", "float32", ("n",))]
    assert ranges(both, **{"": "n:2"})[0] == {"n": ((2, 3),) * 3, "y": ((2,),) * 3}
    assert ranges(both, **{"": "n:2x3,y:2"})[0] == {"n": ((2, 3),) * 3, "y": ((2,),) * 3}


def test_outputs_are_the_librarys():
    network = Network((), (NetworkTensor("y", "float32", ("n", 4, NAMELESS)),), 1)
    (record,) = output_records(network)
    assert (record.shape, record.min, record.max) == (("n", 4, "?"), (-1, 4, -1), (-1, 4, -1))
