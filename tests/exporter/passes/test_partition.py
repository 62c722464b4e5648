"""Segments and ops of a partitioned graph, run in order, are the whole graph, bit for bit."""

import collections

import numpy as np
import onnx_ir as ir
import pytest

from tests.support import tolerances
from tests.support.compare import assert_close
from tests.support.partitioned import feeds, run_partition, run_whole
from ttc.errors import BundleError, InputError
from ttc.exporter.passes.initializers_to_inputs import initializers_to_inputs
from ttc.exporter.passes.inline_composites import inline_composites
from ttc.exporter.passes.partition import partition
from ttc.exporter.passes.plain_reshapes import plain_reshapes
from ttc.formats.manifest import GRAPH_ROLES
from ttc.formats.program import ENGINE, OP, Program
from ttc.formats.strictjson import Fields, parse_json
from ttc.model.bundle import Bundle
from ttc.model.config import LayerKind
from ttc.plugins.ops import DOMAIN
from ttc.plugins.table import PRIMITIVE_OPS

CHECKPOINTS = ("tiny_a", "tiny_b", "tiny_c", "miniature")


def with_weight_inputs(path):
    model = ir.load(path)
    initializers_to_inputs(model)
    return model


def prepared(path):
    model = with_weight_inputs(path)
    plain_reshapes(model)
    inline_composites(model)
    return model


@pytest.mark.parametrize("role", GRAPH_ROLES)
@pytest.mark.parametrize("name", CHECKPOINTS)
@pytest.mark.parametrize("level", ["DISABLE_ALL", "ENABLE_BASIC"])
def test_partitioned_equals_whole(bundles, name, role, level):
    with Bundle.open(bundles(name)) as bundle:
        path = bundle.graph_path(role)
        model = prepared(path)
        parts = partition(model, role)
        inputs = feeds(ir.load(path).graph, {}, bundle.config.vocab_size, seed=7)
        taken = [n for n, buffer in parts.program.buffers.items() if buffer.role == "weight"]
        weights = {n: bundle.read_weight(n) for n in taken}
        assert set(weights) == {n for n, entry in bundle.weights.items() if role in entry.graphs}
    # Weights are inputs on both sides: ONNX Runtime multiplies by a constant matrix with another kernel.
    whole = run_whole(with_weight_inputs(path), inputs | weights, level)
    partitioned = run_partition(parts, inputs | weights, level, model)
    assert partitioned.keys() == whole.keys()
    for output, want in whole.items():
        assert partitioned[output].dtype == want.dtype
        assert partitioned[output].tobytes() == want.tobytes(), output
        assert np.isfinite(want[want < np.inf]).all()
    naive = run_partition(parts, inputs | weights, level, None)
    for output, want in whole.items():
        exact = want.dtype.kind == "i"
        assert_close(naive[output], want, 0.0 if exact else tolerances.DENOISER_LOGITS, f"naive {output}")


@pytest.mark.parametrize("name", CHECKPOINTS)
def test_segments_hold_no_op_and_equal_ones_are_one(bundles, name):
    with Bundle.open(bundles(name)) as bundle:
        config, path = bundle.config, bundle.graph_path("denoiser")
    parts = partition(prepared(path), "denoiser")
    assert all(node.domain != DOMAIN for segment in parts.segments.values() for node in segment.graph)
    assert set(parts.program.engines) == set(parts.segments)
    ops = collections.Counter(each.name for each in parts.program.instructions if each.kind == OP)
    assert ops["MambaScan"] == ops["MambaConv"] == config.layers.count(LayerKind.MAMBA)
    assert ops["MoeChoice"] == ops["MoeOrder"] == ops["MoeUp"] == config.layers.count(LayerKind.MOE)
    assert set(ops) <= {op.name for op in PRIMITIVE_OPS}
    calls = [each.name for each in parts.program.instructions if each.kind == ENGINE]
    # Two ops a Mamba or MoE layer stand between segments; what repeats is built once.
    pairs = {config.pattern[i : i + 2] for i in range(len(config.pattern))}
    assert len(parts.segments) <= len(calls) <= config.num_layers + 1
    assert len(parts.segments) <= len(pairs) + 2


def test_tensors_of_shapes_do_not_cross(bundles):
    for name in CHECKPOINTS:
        with Bundle.open(bundles(name)) as bundle:
            for role in ("context", "denoiser"):
                program = partition(prepared(bundle.graph_path(role)), role).program
                between = [b for b in program.buffers.values() if b.role == "between"]
                assert between
                assert not [b for b in between if b.dtype == "int64" or len(b.shape) == 0]


def test_the_graph_stays_as_it_is_and_partitions_are_repeatable(bundles):
    with Bundle.open(bundles("tiny_b")) as bundle:
        model = prepared(bundle.graph_path("context"))
    before = ir.to_proto(model).SerializeToString(deterministic=True)
    first, second = partition(model, "context"), partition(model, "context")
    assert ir.to_proto(model).SerializeToString(deterministic=True) == before
    assert first.program == second.program
    serialised = [
        [ir.to_proto(segment).SerializeToString(deterministic=True) for segment in each.segments.values()]
        for each in (first, second)
    ]
    assert serialised[0] == serialised[1]


def test_a_second_run_of_the_passes_changes_nothing(bundles):
    with Bundle.open(bundles("tiny_a")) as bundle:
        model = prepared(bundle.graph_path("context"))
    assert not initializers_to_inputs(model)
    assert not plain_reshapes(model)
    assert not inline_composites(model)


def test_a_graph_inside_a_node_is_refused():
    text = """<ir_version: 10, opset_import: ["" : 21]> g (bool c, float[2] x) => (float[2] y) {
        y = If (c) <then_branch = a () => (p) { p = Neg (x) }, else_branch = b () => (q) { q = Abs (x) }>
    }"""
    import onnx.parser

    with pytest.raises(InputError, match=r"holds a graph.*--form whole"):
        partition(ir.from_proto(onnx.parser.parse_model(text)), "g")


@pytest.fixture
def program(bundles):
    with Bundle.open(bundles("tiny_a")) as bundle:
        return partition(prepared(bundle.graph_path("denoiser")), "denoiser").program


def taken(content):
    return Program.take(Fields(content, "p", BundleError), "p")


def test_a_program_survives_json(program):
    import json

    read = taken(parse_json(json.dumps(program.to_dict()).encode(), "p", BundleError))
    assert read == program


@pytest.mark.parametrize(
    ("change", "complaint"),
    [
        (lambda c: c["steps"].pop(0), "before it is written"),
        (lambda c: c["steps"].append(c["steps"][0]), "a second time"),
        (lambda c: c["steps"][0]["inputs"].append("nobody"), "unknown buffer"),
        (lambda c: c["steps"][0].update(kind="shell"), "'engine' or 'op' is due"),
        (
            lambda c: c["buffers"].update(x={"role": "between", "dtype": "float32", "shape": [1]}),
            "no step writes",
        ),
        (lambda c: c["buffers"]["t"].update(role="secret"), "one of input, weight"),
        (lambda c: c["buffers"]["t"].update(shape=[True]), "a number or a text"),
        (lambda c: c.update(more=1), "unknown key"),
    ],
)
def test_a_damaged_program_is_refused(program, change, complaint):
    content = program.to_dict()
    change(content)
    with pytest.raises(BundleError, match=complaint):
        taken(content)
