"""Attention in ONNX Runtime's operators.

The context tower's writes a block's keys and values into the cache and reads only what each row holds. The
denoiser's, in which a block sees all of itself, is another one: the former has it for a single row only.
"""

from collections.abc import Sequence

import onnx_ir as ir

from ttc.model.graphs import new_name
from ttc.runtime.backends.onnxruntime.native.rewriting import (
    MICROSOFT,
    Nodes,
    Rewriter,
    fixed_dims,
    take_over,
)

__all__ = ["block_attention"]


def block_attention(rewriter: Rewriter, node: ir.Node) -> None:
    """Replace `BlockAttention`; in the context tower also what writes the cache."""
    queries, keys, values, cached_keys, cached_values, _ = node.inputs
    assert cached_keys is not None, "an op with all its inputs"
    assert cached_values is not None, "an op with all its inputs"
    kv_heads, width = fixed_dims(cached_keys)
    heads = fixed_dims(queries)[-1] // width
    made = rewriter.before(node)
    queries, keys, values = _projected(made, [queries, keys, values])
    if not node.attributes["causal"].as_int():
        mask = _input(rewriter.graph, "attention_mask", ir.DataType.BOOL, ["B", 1, "L", "C + L"])
        mixed = made.add_many(
            "Attention",
            [queries, keys, values, mask, cached_keys, cached_values],
            3,
            q_num_heads=heads,
            kv_num_heads=kv_heads,
        )[0]
        rewriter.replace(node, [mixed])
        return
    last, most, count = (
        _input(rewriter.graph, name, ir.DataType.INT32, shape)
        for name, shape in (("seqlens_k", ["B"]), ("total_sequence_length", []), ("query_seqlens", ["B"]))
    )
    nothing = [None] * 9
    mixed, new_keys, new_values = made.add_many(
        "GroupQueryAttention",
        [queries, keys, values, cached_keys, cached_values, last, most, *nothing, count],
        3,
        MICROSOFT,
        num_heads=heads,
        kv_num_heads=kv_heads,
    )
    for cache, new in ((cached_keys, new_keys), (cached_values, new_values)):
        for output in rewriter.graph.outputs:
            if output.name == new_name(str(cache.name)):
                take_over(output, new)
    rewriter.replace(node, [mixed])


def _projected(made: Nodes, values: list[ir.Value | None]) -> list[ir.Value]:
    """Return queries, keys and values from one product in place of three, where they are products of one x
    with weights.
    """
    known = [value for value in values if value is not None]
    assert len(known) == len(values), "an op with all its inputs"
    producers = [value.producer() for value in known]
    products = [node for node in producers if node is not None and node.op_type == "MatMul"]
    sources = {product.inputs[0] for product in products}
    if len(products) < len(known) or len(sources) > 1:
        return known
    weights = [product.inputs[1] for product in products]
    together = made.add("MatMul", [*sources, made.add("Concat", weights, axis=1)])
    widths = made.ints(*(fixed_dims(value)[-1] for value in known))
    return list(made.add_many("Split", [together, widths], len(known), axis=2))


def _input(graph: ir.Graph, name: str, dtype: ir.DataType, shape: Sequence[int | str]) -> ir.Value:
    """Return the graph's input of this name, which is made once."""
    for value in graph.inputs:
        if value.name == name:
            return value
    value = ir.Value(name=name, type=ir.TensorType(dtype), shape=ir.Shape(shape))
    graph.inputs.append(value)
    return value
