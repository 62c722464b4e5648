"""The exported graphs: what goes in and out, names, metadata, bodies; and that any ONNX tool can use them."""

import json
import re

import numpy as np
import onnx
import onnx_ir as ir
import onnxruntime
import pytest

from tests.support import tolerances
from tests.support.compare import assert_close, assert_equal
from tests.support.golden import golden
from ttc.exporter.passes import pipeline, run_passes
from ttc.formats.manifest import GRAPH_ROLES
from ttc.model.bundle import Bundle
from ttc.model.config import LayerKind
from ttc.model.graphs import graph_inputs, graph_outputs
from ttc.plugins.ops import DOMAIN, PLUGIN_ATTRIBUTES


@pytest.fixture(params=["tiny_a", "tiny_b", "tiny_c"])
def bundle(request, bundles):
    with Bundle.open(bundles(request.param)) as opened:
        yield opened


def graph(bundle, role):
    return ir.load(bundle.graph_path(role)).graph


def signature(values):
    return {value.name: (str(value.dtype), [str(d) for d in value.shape]) for value in values}


def test_inputs_and_outputs_are_the_contract(bundle):
    config = bundle.config
    F, W1, D = config.conv_dim, config.conv_kernel - 1, config.head_dim
    ssm = [config.mamba_num_heads, config.mamba_head_dim, config.ssm_state_size]
    state, new, saved, mamba = {}, {}, {}, {}
    for i, kind in enumerate(config.layers):
        if kind == LayerKind.MAMBA:
            own = {
                f"conv_state.{i}": ("FLOAT", ["B", F, W1]),
                f"ssm_state.{i}": ("FLOAT", ["B", *ssm]),
            }
            mamba |= own
            saved[f"saved_xbc.{i}"] = ("FLOAT", ["B", "L", F])
            saved[f"saved_dt.{i}"] = ("FLOAT", ["B", "L", config.mamba_num_heads])
        elif kind == LayerKind.ATTENTION:
            cache = ("FLOAT", ["B", config.num_key_value_heads, "C", D])
            own = {f"k_cache.{i}": cache, f"v_cache.{i}": cache}
        else:
            continue
        state |= own
    text = lambda table: {name: (dtype, [str(d) for d in shape]) for name, (dtype, shape) in table.items()}  # noqa: E731
    V = config.vocab_size
    want = {
        "context": {
            "input_ids": ("INT32", ["B", "L"]),
            "lengths": ("INT32", ["B"]),
            "commit_len": ("INT32", ["B"]),
            "logit_positions": ("INT32", ["B", "R"]),
            **state,
        },
        "denoiser": {
            "block_ids": ("INT32", ["B", "L"]),
            "t": ("FLOAT", ["B"]),
            "lengths": ("INT32", ["B"]),
            **state,
        },
        "advance": {"commit_len": ("INT32", ["B"]), **saved, **mamba},
        "step": {
            "logits": ("FLOAT", ["B", "L", V]),
            "block_ids": ("INT32", ["B", "L"]),
            "threshold": ("FLOAT", ["B"]),
            "temperature": ("FLOAT", ["B"]),
            "row_key": ("INT64", ["B"]),
            "position": ("INT32", ["B"]),
            "step": ("INT32", ["B"]),
            "steps_left": ("INT32", ["B"]),
        },
    }
    for role in GRAPH_ROLES:
        assert signature(graph(bundle, role).inputs) == text(want[role]), role
    new = [f"new_{name}" for name in state]
    outputs = {
        "context": ["logits", *new, *saved],
        "denoiser": ["logits"],
        "advance": [f"new_{name}" for name in mamba],
        "step": ["next_block_ids", "predicted_ids", "confidence", "masked_count", "t"],
    }
    for role in GRAPH_ROLES:
        assert [value.name for value in graph(bundle, role).outputs] == outputs[role], role


def test_the_model_lists_them(bundle):
    """`ttc.model.graphs` has the inputs and outputs of the files, outputs in order."""
    for role in GRAPH_ROLES:
        listed = {
            tensor.name: (tensor.dtype_in("float32"), [str(dim) for dim in tensor.shape])
            for tensor in graph_inputs(bundle.config, role)
        }
        inputs = {
            value.name: (str(value.dtype.numpy()), [str(dim) for dim in value.shape])
            for value in graph(bundle, role).inputs
        }
        assert inputs == listed, role
        outputs = [tensor.name for tensor in graph_outputs(bundle.config, role)]
        assert [value.name for value in graph(bundle, role).outputs] == outputs, role


def test_files_say_what_they_are(bundle):
    for role in GRAPH_ROLES:
        path = bundle.graph_path(role)
        onnx.checker.check_model(path, full_check=True)
        properties = {p.key: p.value for p in onnx.load(path, load_external_data=False).metadata_props}
        assert properties["ttc.role"] == role
        assert properties["ttc.compute_dtype"] == "float32"
        assert properties["ttc.weights"] == "initializers"
        assert json.loads(properties["ttc.model"]) == bundle.config.to_dict() | {
            "eos_token_ids": list(bundle.config.eos_token_ids)
        }
        assert json.loads(properties["ttc.ops"])["MoeExperts"] == 1


def test_every_node_carries_its_layer(bundle):
    """Names that read in a viewer: layers.<i>.<kind>/…, embedding, time, head, step."""
    layers = bundle.config.layers
    for role in GRAPH_ROLES:
        names = [node.name for node in graph(bundle, role)]
        assert len(set(names)) == len(names)
        for name in names:
            match = re.fullmatch(r"(embedding|time|head|step|layers\.(\d+)\.(\w+))/\w+", name)
            assert match, name
            if match[2]:
                assert layers[int(match[2])].scope == match[3]
    numbers = {
        int(node.name.split(".")[1]) for node in graph(bundle, "context") if node.name.startswith("layers")
    }
    assert numbers == set(range(len(layers)))


def test_every_ttc_call_is_a_plugin_with_a_body(bundle):
    for role in GRAPH_ROLES:
        model = ir.load(bundle.graph_path(role))
        nodes = [*model.graph.all_nodes(), *(n for f in model.functions.values() for n in f.all_nodes())]
        calls = [node for node in nodes if node.domain == DOMAIN]
        assert calls
        for node in calls:
            assert {name: node.attributes[name].value for name in PLUGIN_ATTRIBUTES} == PLUGIN_ATTRIBUTES
            assert (DOMAIN, node.op_type, "") in model.functions


def test_a_packed_graph_runs_by_itself(bundle):
    """Any ONNX tool: no bundle, no weights from elsewhere, dynamic batch, block, capacity."""
    session = onnxruntime.InferenceSession(bundle.graph_path("context"), providers=["CPUExecutionProvider"])
    dtypes = {"tensor(int32)": np.int32, "tensor(float)": np.float32}
    for sizes in ({"B": 1, "L": 1, "C": 8, "R": 1}, {"B": 3, "L": 7, "C": 40, "R": 2}):
        feeds = {
            value.name: np.zeros([sizes.get(d, d) for d in value.shape], dtypes[value.type])
            for value in session.get_inputs()
        }
        logits = session.run(["logits"], feeds)[0]
        assert logits.shape == (sizes["B"], sizes["R"], bundle.config.vocab_size)
        assert np.isfinite(logits).all()


def test_passes_change_nothing_the_second_time(bundle):
    for role in GRAPH_ROLES:
        model = ir.load(bundle.graph_path(role))
        metadata = {key.removeprefix("ttc."): text for key, text in model.metadata_props.items()}
        assert not run_passes(model, pipeline({}, metadata, packed=True)), role


def test_operators_that_tensorrt_rtx_lacks_are_not_used(bundle):
    """Those it refuses, by probing: scatters with a reduction, NonZero, Unique, bitwise, sequences,
    Multinomial.
    """
    refused = {"NonZero", "Unique", "Multinomial", "Bernoulli", "SplitToSequence", "SequenceAt", "BitShift"}
    for role in GRAPH_ROLES:
        model = ir.load(bundle.graph_path(role))
        for node in [*model.graph.all_nodes(), *(n for f in model.functions.values() for n in f.all_nodes())]:
            assert node.op_type not in refused
            assert not node.op_type.startswith("Bitwise")
            reduction = node.attributes.get("reduction")
            assert reduction is None or reduction.as_string() == "none"


def zeros(graph, sizes):
    """Feeds of zeros for all of a graph's inputs."""
    return {
        value.name: np.zeros([sizes.get(str(d), d) for d in value.shape], value.dtype.numpy())
        for value in graph.inputs
    }


def run_with(model, values, feeds):
    """The named inner values of a graph, computed by ONNX Runtime."""
    model.graph.outputs[:] = values
    session = onnxruntime.InferenceSession(
        ir.serde.serialize_model(model).SerializeToString(), providers=["CPUExecutionProvider"]
    )
    taken = {value.name for value in session.get_inputs()}
    return session.run(None, {name: feed for name, feed in feeds.items() if name in taken})


def test_recorded_routing_in_the_exported_graph(bundle):
    """Experts and weights of every MoE layer of the context graph, computed by ONNX Runtime, for the recorded
    prompt.
    """
    g = golden(bundle.manifest.source["checkpoint"])
    prompt = g.vectors["prompt/p23"].astype(np.int32)
    L = prompt.shape[1]
    model = ir.load(bundle.graph_path("context"))
    nodes = [node for node in model.graph if node.op_type == "MoeRouting"]
    layers = [int(node.name.split(".")[1]) for node in nodes]
    feeds = zeros(model.graph, {"B": 1, "L": L, "C": 32, "R": 1}) | {"input_ids": prompt}
    found = run_with(model, [node.outputs[k] for node in nodes for k in (0, 1)], feeds)
    recorded = [layer for layer in layers if f"moe/context/{layer}/topk_indices" in g.vectors]
    assert recorded
    for layer in recorded:
        ids, weights = found[2 * layers.index(layer) : 2 * layers.index(layer) + 2]
        order = np.argsort(ids, axis=1)
        prefix = f"moe/context/{layer}"
        assert_equal(
            np.take_along_axis(ids, order, 1), g.vectors[f"{prefix}/topk_indices"], f"{prefix}: experts"
        )
        got = np.take_along_axis(weights, order, 1)
        assert_close(
            got, g.vectors[f"{prefix}/topk_weights"], tolerances.CONTEXT_LOGITS, f"{prefix}: weights"
        )


def test_recorded_time_embedding_in_the_exported_graph(bundle):
    """What the time MLPs give in the denoiser graph, computed by ONNX Runtime, for the recorded t."""
    g = golden(bundle.manifest.source["checkpoint"])
    t = g.vectors["temb/t"]
    model = ir.load(bundle.graph_path("denoiser"))
    modulation = next(
        value for node in model.graph for value in node.outputs if value.name == "time/modulation"
    )
    feeds = zeros(model.graph, {"B": len(t), "L": 1, "C": 8}) | {"t": t}
    (got,) = run_with(model, [modulation], feeds)
    want = g.vectors["temb/t_block"]
    assert_close(got.reshape(want.shape), want, tolerances.TIME_EMBEDDING, "time embedding")
