"""The table of signatures: every op has a naive function and a body that agree with it; the docs show it."""

from pathlib import Path

import pytest

from ttc.base.dims import letters
from ttc.plugins.functions import function_body
from ttc.plugins.ops import CHOICES, PLUGIN_ATTRIBUTES, OpSpec
from ttc.plugins.table import LAUNCHED_OPS, OPS, markdown

DOCS = Path(__file__).parents[2] / "docs" / "ops.md"


def some_values(op: OpSpec) -> dict[str, int | float | str]:
    """Return a value for every letter of the op's shapes, for every attribute and for every word."""
    dims = {
        letter: 2 for tensor in (*op.inputs, *op.outputs) for dim in tensor.shape for letter in letters(dim)
    }
    words = {word: dtypes[0] for word, dtypes in CHOICES.items()}
    return dims | words | {name: 1.0 if kind == "float" else 1 for name, kind in op.attributes.items()}


@pytest.mark.parametrize("op", OPS, ids=lambda op: op.name)
def test_signature_naive_function_and_body_agree(op):
    function = function_body(op.name, some_values(op))
    assert callable(op.load("naive"))
    assert [value.name for value in function.inputs] == [spec.name for spec in op.inputs]
    assert [value.name for value in function.outputs] == [spec.name for spec in op.outputs]
    assert set(function.attributes) == set(op.attributes)
    inner = [node.op_type for node in function if node.domain == "ttc"]
    assert tuple(inner) == op.parts
    assert {*op.parts} <= {other.name for other in LAUNCHED_OPS}, "a part is one launch"


def test_names_are_no_op_names_of_onnx():
    """TensorRT's parser ignores the domain, so a clash would take the wrong op."""
    from onnx import defs

    taken = {schema.name for schema in defs.get_all_schemas_with_history()}
    assert not taken & {op.name for op in OPS}


def test_plugin_attributes_are_what_tensorrt_looks_for():
    assert dict(PLUGIN_ATTRIBUTES) == {"plugin_namespace": "ttc", "aot": 1}


def test_docs_show_the_table():
    assert markdown() in DOCS.read_text("utf-8"), (
        "docs/ops.md is stale; paste the output of ttc.plugins.table.markdown()"
    )
