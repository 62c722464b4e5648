"""A layer whose experts are stored in eight or four bits: traced, given the bodies of its ops, and run.

ONNX Runtime's CPU has no operator for float4_e2m1fn, so ONNX's own evaluator runs that one.
"""

import dataclasses

import ml_dtypes
import numpy as np
import onnx
import onnx_ir as ir
import onnxruntime
import pytest
import torch
from onnx.reference import ReferenceEvaluator

from tests.support import tolerances
from tests.support.compare import assert_close
from tests.support.golden import golden
from tests.support.stored_experts import EIGHT_BITS, FOUR_BITS, store
from ttc.exporter.onnx.pieces import layer_piece
from ttc.exporter.onnx.tracing import trace
from ttc.exporter.passes.inline_ops import inline_ops
from ttc.exporter.passes.inputs_to_initializers import inputs_to_initializers
from ttc.formats.manifest import WeightSpec
from ttc.model import towers
from ttc.model.config import LayerKind
from ttc.model.weights import CONTEXT
from ttc.plugins.functions import add_function_bodies
from ttc.plugins.naive import run_naive

CONFIG = dataclasses.replace(golden("tiny_a").config, moe_intermediate_size=64)  # int4 has groups of 32
SUFFIXES = ("", "_scale", "_scale_2")


def layer(stored):
    """The weights of a MoE layer by their names inside it, and what the graphs say of them."""
    random = torch.Generator().manual_seed(0)
    E, D, I = CONFIG.n_routed_experts, CONFIG.hidden_size, CONFIG.moe_intermediate_size  # noqa: E741
    shared = CONFIG.moe_shared_expert_intermediate_size
    shapes = {
        "norm.weight": (D,),
        "mixer.gate.weight": (E, D),
        "mixer.gate.e_score_correction_bias": (E,),
        "mixer.shared_experts.up_proj.weight": (shared, D),
        "mixer.shared_experts.down_proj.weight": (D, shared),
        "mixer.experts.up_proj.weight": (E, I, D),
        "mixer.experts.down_proj.weight": (E, D, I),
    }
    tensors, dtypes = {}, {}
    for name, shape in shapes.items():
        weight = torch.randn(shape, generator=random) / shape[-1] ** 0.5
        parts = (weight,) if ".experts." not in name or stored == "plain" else store(weight, stored).tensors
        for end, part in zip(SUFFIXES, parts, strict=False):
            tensors[name + end] = part
            dtypes[name + end] = str(part.dtype).removeprefix("torch.")
    if stored in FOUR_BITS:
        dtypes |= {name: stored for name in dtypes if ".experts." in name and name.endswith(".weight")}
    specs = {}
    for name, part in tensors.items():
        coded = stored != "plain" and ".experts." in name and name.endswith(".weight")
        shape = logical(part, dtypes[name])
        specs[name] = WeightSpec(
            name, (name,), False, shape, dtypes[name], ("context",), piece="weight" if coded else ""
        )
    return tensors, specs


def logical(tensor, dtype):
    shape = tuple(tensor.shape)
    return (*shape[:-1], 2 * shape[-1]) if dtype in FOUR_BITS else shape


def numbers(tensor, dtype):
    """The tensor in numpy, with one element for every number."""
    if dtype == "float8_e4m3fn":
        return tensor.view(torch.uint8).numpy().view(ml_dtypes.float8_e4m3fn)
    if dtype in FOUR_BITS:
        codes = torch.stack((tensor & 15, tensor >> 4), -1).flatten(-2).numpy()
        if dtype == "int4":
            return ((codes.astype(np.int8) ^ 8) - 8).astype(ml_dtypes.int4)
        return codes.view(ml_dtypes.float4_e2m1fn)
    return tensor.numpy()


def model_of(stored):
    """The layer as a model with its weights inside, and as torch computes it."""
    tensors, specs = layer(stored)
    piece = layer_piece(CONFIG, "float32", specs, CONTEXT, LayerKind.MOE)
    graph = trace(piece.run, piece.arguments)
    graph.name, graph.outputs[0].name = "layer", "out"  # in a tower, every layer gives its own x
    model = ir.Model(graph, ir_version=10)
    found = {str(v.name): (str(v.dtype.numpy()), tuple(v.shape)) for v in graph.inputs if v.name in specs}
    assert found == {name: (spec.dtype, spec.shape) for name, spec in specs.items()}
    add_function_bodies(model)
    # Numbers of four bits come as they are stored, two in a byte.
    read = {
        name: (
            lambda n=name: (
                tensors[n].numpy() if specs[n].dtype in FOUR_BITS else numbers(tensors[n], specs[n].dtype)
            )
        )
        for name in specs
    }
    inputs_to_initializers(model, read)
    return model, tensors


@pytest.mark.parametrize("stored", ["plain", *EIGHT_BITS, *FOUR_BITS])
def test_a_layer_as_torch_and_as_a_graph(stored):
    model, tensors = model_of(stored)
    needs_later = stored == "float4_e2m1fn"
    assert model.graph.opset_imports[""] == (23 if needs_later else 21)
    assert model.ir_version == (11 if needs_later else 10)
    proto = ir.serde.serialize_model(model)
    onnx.checker.check_model(proto)
    inline_ops(model)  # functions of eight- or four-bit inputs are none that ONNX Runtime takes
    proto = ir.serde.serialize_model(model)
    x = torch.randn(1, 5, CONFIG.hidden_size, generator=torch.Generator().manual_seed(1))
    none = torch.zeros(1, dtype=torch.int32)
    want, _, _ = towers.context_layer(CONFIG, LayerKind.MOE, tensors, run_naive, x, none, none, ())
    feeds = {"x": x.numpy(), "lengths": none.numpy(), "commit_len": none.numpy()}
    feeds = {str(value.name): feeds[str(value.name)] for value in model.graph.inputs}
    if needs_later:
        (got,) = ReferenceEvaluator(proto).run(None, feeds)[:1]
    else:
        session = onnxruntime.InferenceSession(proto.SerializeToString(), providers=["CPUExecutionProvider"])
        (got,) = session.run(None, feeds)[:1]
    assert_close(got, want, tolerances.MOE, stored)


def test_what_is_stored_is_told_by_the_key():
    """Layers that differ in it are traced each on its own; those that do not, once."""
    keys = [
        layer_piece(CONFIG, "float32", layer(stored)[1], CONTEXT, LayerKind.MOE).key
        for stored in ("plain", *EIGHT_BITS, *FOUR_BITS)
    ]
    assert len({*keys}) == 5
    assert keys[0] == "context layer E"
