"""ONNX Runtime with its state kept where it computes: the bindings that a GPU gets, on the CPU's provider."""

import dataclasses

import ml_dtypes
import numpy as np
import onnx_ir as ir
import onnxruntime
import pytest

from tests.support.golden import golden
from tests.support.recorded import options_of, recorded, tokens_of
from ttc.errors import BackendError, InputError
from ttc.model.bundle import Bundle
from ttc.model.graphs import is_mamba_state
from ttc.runtime.backends.onnxruntime import providers
from ttc.runtime.backends.onnxruntime.load import load
from ttc.runtime.backends.onnxruntime.providers import choose_provider
from ttc.runtime.backends.onnxruntime.small_graphs import ROW_GRAPH, row_graph
from ttc.runtime.backends.onnxruntime.values import array_of, element_type, value_of
from ttc.runtime.engine import Engine
from ttc.runtime.interface.settings import LoadSettings

PROMPTS = [[5, 6, 7], [9] * 5, [4, 8]]


@pytest.fixture
def resident(bundles):
    """`resident(name)`: an engine over a golden checkpoint."""
    opened = []

    def make(name, dtype="float32"):
        with Bundle.open(bundles(name, dtype)) as bundle:
            opened.append(Engine(load(bundle, LoadSettings(device="cpu"), resident=True), None))
        return opened[-1]

    yield make
    for engine in opened:
        engine.close()


@pytest.mark.parametrize("name", ["tiny_a", "tiny_c"])
def test_golden_tokens(resident, name):
    g, case = golden(name), "gen/L12_b8_s4_g0.9"
    row = recorded(name, 12)[case]
    result = resident(name).generate(g.prompt(row)[0].tolist(), dataclasses.replace(options_of(row)))
    assert list(result.token_ids) == tokens_of(g, case)


@pytest.mark.parametrize(
    "options",
    [
        {"mode": "diffusion", "max_new_tokens": 24},
        {"mode": "ar", "max_new_tokens": 9},
        {"mode": "ar", "max_new_tokens": 9, "temperature": 0.8, "seed": 3},
        {"mode": "ar", "max_new_tokens": 5, "temperature": 0.8, "top_k": 3, "seed": 3},
        {"mode": "lossless", "max_new_tokens": 20},
        {"mode": "mock-ar", "max_new_tokens": 6},
    ],
    ids=lambda options: "-".join(map(str, options.values())),
)
def test_as_with_arrays_of_the_host(resident, engines, options):
    """Ragged rows, in all modes."""
    asked = {**options, "stop_at_eos": False}
    got = resident("tiny_a").generate(PROMPTS, **asked)
    want = engines("tiny_a", "onnxruntime").generate(PROMPTS, **asked)
    assert [row.token_ids for row in got] == [row.token_ids for row in want]


def test_caches_stay_where_they_are(resident):
    """A context call writes keys and values into the memory that it read them from."""
    backend = resident("tiny_a").runner
    state = backend.new_state(2, 64)
    one, place = np.ones(2, np.int32), np.zeros((2, 1), np.int32)
    addresses = []
    for _ in range(3):
        backend.context(state, np.full((2, 4), 5, np.int32), one * 4, place)
        addresses.append({n: x.value.data_ptr() for n, x in state.tensors.items() if not is_mamba_state(n)})
    assert addresses[0] == addresses[1] == addresses[2] != {}
    assert state.lengths.tolist() == [12, 12]


def test_ar_tokens_are_chosen_where_the_logits_are(resident, monkeypatch):
    engine = resident("tiny_a")
    want = engine.generate(PROMPTS, mode="ar", max_new_tokens=4, stop_at_eos=False)
    monkeypatch.setattr(type(engine.runner), "fetch_whole", None)
    got = engine.generate(PROMPTS, mode="ar", max_new_tokens=4, stop_at_eos=False)
    assert [row.token_ids for row in got] == [row.token_ids for row in want]


def test_rows_come_and_go(resident):
    backend = resident("tiny_a").runner
    state = backend.new_state(1, 64)
    one, place = np.ones(1, np.int32), np.zeros((1, 1), np.int32)
    backend.context(state, np.full((1, 4), 5, np.int32), one * 4, place)
    first = backend.read_state(state)
    backend.resize(state, 3)
    assert backend.rows_of(state) == 4
    backend.copy_row(state, 0, state, 2)
    longer = backend.new_state(2, 128)
    backend.copy_row(state, 0, longer, 1)
    now, far = backend.read_state(state), backend.read_state(longer)
    for name, tensor in first.items():
        assert (now[name][0] == tensor[0]).all()
        assert (now[name][2] == tensor[0]).all()
        assert not now[name][1].any()
        kept = far[name][1] if is_mamba_state(name) else far[name][1, :, :64]
        assert (kept == tensor[0]).all()
    assert state.lengths.tolist() == [4, 0, 4]
    assert longer.lengths.tolist() == [0, 4]
    backend.clear_rows(state, np.array([0], np.int32))
    assert not any(tensor[0].any() for tensor in backend.read_state(state).values())
    again = backend.write_state(64, np.array([4], np.int32), first)
    assert all((backend.read_state(again)[name] == tensor).all() for name, tensor in first.items())


@pytest.mark.parametrize("dtype", ["float32", "float16", "bfloat16"])
def test_values_are_the_bits(dtype):
    """There and back, through a graph of that dtype, and as weights of a session."""
    array = np.arange(24, dtype=np.float32).reshape(4, 3, 2).astype(dtype)
    value = value_of(array)
    assert value.element_type() == element_type(dtype)
    assert array_of(value, array.shape, dtype).tobytes() == array.tobytes()
    model = ir.serde.serialize_model(row_graph(dtype, 3)).SerializeToString()
    session = onnxruntime.InferenceSession(model, providers=["CPUExecutionProvider"])
    numbers = np.array([1], np.int64), np.array([3], np.int64)
    other = np.flip(array).copy()
    feeds = dict(zip(ROW_GRAPH, map(value_of, (array, numbers[0], other, numbers[1])), strict=False))
    (changed,) = session.run_with_ort_values(["changed"], feeds)
    want = array.copy()
    want[1] = other[3]
    assert array_of(changed, array.shape, dtype).tobytes() == want.tobytes()


def test_bfloat16_weights_go_in_as_they_are():
    weight = np.array([1.5, -2.0, 3.140625], ml_dtypes.bfloat16)
    held = ir.Value(name="w", type=ir.TensorType(ir.DataType.BFLOAT16), shape=ir.Shape([3]))
    held.const_value = ir.ExternalTensor("w.bin", 0, 6, ir.DataType.BFLOAT16, shape=ir.Shape([3]), name="w")
    node = ir.Node("", "Cast", [held], [ir.AttrInt64("to", ir.DataType.FLOAT)])
    node.outputs[0].name, node.outputs[0].type = "y", ir.TensorType(ir.DataType.FLOAT)
    node.outputs[0].shape = ir.Shape([3])
    graph = ir.Graph([], node.outputs, nodes=[node], initializers=[held], opset_imports={"": 21}, name="g")
    options = onnxruntime.SessionOptions()
    options.add_external_initializers(["w"], [value_of(weight)])
    content = ir.serde.serialize_model(ir.Model(graph, ir_version=10)).SerializeToString()
    session = onnxruntime.InferenceSession(content, options, providers=["CPUExecutionProvider"])
    assert session.run(None, {})[0].tolist() == [1.5, -2.0, 3.140625]


ALL = [
    "TensorrtExecutionProvider",
    "NvTensorRTRTXExecutionProvider",
    "CUDAExecutionProvider",
    "CPUExecutionProvider",
]


@pytest.fixture
def with_gpu(monkeypatch, tmp_path):
    monkeypatch.setattr(onnxruntime, "get_available_providers", lambda: ALL)
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    return tmp_path


def test_provider_and_device(with_gpu):
    assert choose_provider(None, None, "m", "bfloat16").name == "cuda"
    assert choose_provider(None, "cpu", "m", "bfloat16").providers == ["CPUExecutionProvider"]
    cuda = choose_provider(None, "cuda:1", "m", "bfloat16")
    assert cuda.device == ("cuda", 1)
    assert cuda.providers[0] == ("CUDAExecutionProvider", {"device_id": "1", "use_tf32": "0"})
    assert cuda.writes_in_place
    with pytest.raises(InputError, match="provider is 'rocm'; valid: cpu, cuda, tensorrt, nv-tensorrt-rtx"):
        choose_provider("rocm", None, "m", "float32")
    with pytest.raises(InputError, match="provider 'tensorrt' runs on cuda, the device is 'cpu'"):
        choose_provider("tensorrt", "cpu", "m", "float32")


@pytest.mark.parametrize("dtype", ["float32", "float16", "bfloat16"])
def test_engines_are_kept_by_bundle_and_provider(with_gpu, dtype):
    first, other = (choose_provider("tensorrt", None, model, dtype) for model in ("one", "two"))
    name, options = first.providers[0]
    assert name == "TensorrtExecutionProvider"
    folder = with_gpu / "ttc" / "onnxruntime"
    assert (
        options["trt_engine_cache_path"]
        == options["trt_timing_cache_path"]
        != other.providers[0][1]["trt_engine_cache_path"]
    )
    assert options["trt_engine_cache_path"].startswith(str(folder))
    assert options["trt_engine_cache_enable"] == options["trt_timing_cache_enable"] == "1"
    assert {key for key in options if "16" in key} == {
        "float32": set(),
        "float16": {"trt_fp16_enable"},
        "bfloat16": {"trt_bf16_enable"},
    }[dtype]
    assert [each if isinstance(each, str) else each[0] for each in first.providers[1:]] == ALL[2:]
    assert not first.writes_in_place
    rtx = choose_provider("nv-tensorrt-rtx", "cuda:2", "one", dtype)
    name, options = rtx.providers[0]
    assert name == "NvTensorRTRTXExecutionProvider"
    assert options.keys() == {"device_id", "nv_runtime_cache_path"}
    assert options["nv_runtime_cache_path"] != first.providers[0][1]["trt_engine_cache_path"]
    assert len(list(folder.iterdir())) == 3
    assert not first.notes


def test_a_folder_of_others_is_not_used(with_gpu, monkeypatch):
    monkeypatch.setattr(providers, "why_foreign_folder", lambda folder: "others may write there")
    choice = choose_provider("tensorrt", None, "one", "float32")
    assert choice.providers[0][1] == {"device_id": "0"}
    assert [note for note in choice.notes if "are not kept" in note and "others may write there" in note]


def test_what_is_not_there_is_said():
    with pytest.raises(BackendError, match=r"has no TensorrtExecutionProvider .* install onnxruntime-gpu"):
        choose_provider("tensorrt", None, "m", "float32")


def test_a_provider_that_did_not_load_is_an_error(with_gpu):
    model = ir.serde.serialize_model(row_graph("float32", 2)).SerializeToString()
    session = onnxruntime.InferenceSession(model, providers=["CPUExecutionProvider"])
    with pytest.raises(BackendError, match="could not load CUDAExecutionProvider and took CPUExecution"):
        choose_provider("cuda", None, "m", "float32").check(session)


def test_provider_is_onnx_runtimes():
    with pytest.raises(InputError, match="provider is for backend 'onnxruntime', not 'torch'"):
        LoadSettings(provider="cuda").refuse_provider("torch")
