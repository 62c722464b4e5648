"""Engines on a fake device: what is refused before TensorRT is asked anything, and the golden tokens
through whole engines and partitioned graphs.
"""

import importlib
import json
import sys

import numpy as np
import pytest

import ttc
from tests.support.fake_device import with_loop_kernel
from tests.support.fake_engines import PROFILE, FakeContext, FakeEngine, install, load_onto, write_engines
from tests.support.golden import CHECKPOINTS, golden
from tests.support.recorded import options_of, recorded, tokens_of
from ttc.errors import BackendError, BundleError, CapacityError, DeviceMemoryError, DigestError, InputError
from ttc.formats.engines import MANIFEST_FILE, SIGNATURE_FILE, EngineFolder
from ttc.formats.signing import sign
from ttc.model.bundle import Bundle
from ttc.runtime.gpu import append_kv
from ttc.runtime.gpu import load_engines as loading
from ttc.runtime.gpu.device import ALIGNMENT
from ttc.runtime.gpu.ptx_ops import PtxOps
from ttc.verify.backends import Candidate
from ttc.verify.compare import compare
from ttc.verify.observe import observe
from ttc.verify.scenario import Shapes, make_scenario
from ttc.verify.tolerances import tolerances_of


@pytest.fixture(scope="session")
def engine_folders(bundles, tmp_path_factory):
    """`engine_folders(name, form)`: a set of fake engines."""
    made = {}

    def get(name, form="cut"):
        if (name, form) not in made:
            folder = tmp_path_factory.mktemp("engines") / f"{name}-{form}"
            made[name, form] = write_engines(bundles(name), folder, form)
        return made[name, form]

    return get


@pytest.fixture
def api(monkeypatch):
    return install(monkeypatch)


@pytest.fixture
def fake_gpu(monkeypatch, api):
    device = with_loop_kernel()
    load_onto(monkeypatch, [device])
    return device


@pytest.fixture
def fake_gpus(monkeypatch, api):
    """Two of them."""
    devices = [with_loop_kernel(name=f"cuda:{place}") for place in range(2)]
    load_onto(monkeypatch, devices)
    return devices


def changed(folder, tmp_path, change):
    """A copy of a set of engines with its manifest changed and signed by its own digest again."""
    copy = tmp_path / "copy"
    copy.mkdir()
    for path in folder.iterdir():
        (copy / path.name).write_bytes(path.read_bytes())
    from ttc.formats.engines import EnginesManifest

    content = json.loads((copy / MANIFEST_FILE).read_text())
    change(content)
    content.pop("manifest_sha256")
    import hashlib

    text = json.dumps(content, sort_keys=True, separators=(",", ":"))
    content["manifest_sha256"] = hashlib.sha256(text.encode()).hexdigest()
    (copy / MANIFEST_FILE).write_text(json.dumps(content))
    EnginesManifest.from_json((copy / MANIFEST_FILE).read_bytes(), "test")
    return copy


@pytest.mark.parametrize("form", ["cut", "whole"])
@pytest.mark.parametrize("name", CHECKPOINTS)
def test_golden_tokens(bundles, engine_folders, fake_gpu, name, form):
    g = golden(name)
    with ttc.load(bundles(name), "tensorrt-rtx", engines=engine_folders(name, form)) as engine:
        taken = 0
        for case_name, case in recorded(name, 6).items():
            if case["block_size"] > 16 or case["max_new_tokens"] + g.prompt(case).shape[1] > 128:
                continue
            prompt = g.prompt(case)[0].tolist()
            result = engine.generate(prompt, options_of(case))
            assert list(result.token_ids) == tokens_of(g, case_name), case_name
            assert list(result.stats.nfe_per_block) == case["nfe_per_block"], case_name
            assert result.stats.graph_level == 2
            taken += 1
        assert taken >= 3
        assert engine.backend == "tensorrt-rtx"
    assert not fake_gpu.blocks, "closing gives all memory back"


@pytest.mark.parametrize("form", ["cut", "whole"])
def test_golden_tokens_on_two_gpus(bundles, engine_folders, fake_gpus, api, form):
    """Each tower's engines and weights on a GPU of its own, which nothing of the other tower reaches."""
    g, bundle, engines = golden("tiny_a"), bundles("tiny_a"), engine_folders("tiny_a", form)
    with ttc.load(bundle, "tensorrt-rtx", "cuda:0,cuda:1", engines=engines) as engine:
        loaded = EngineFolder.open(engines, None).manifest.engines
        homes = {"context": "cuda:0", "advance": "cuda:0", "denoiser": "cuda:1", "step": "cuda:1"}
        assert sorted(api.made_on) == sorted(homes[record.role] for record in loaded.values())
        checked = 0
        for case_name, case in recorded("tiny_a", 40).items():
            if case["block_size"] <= 16 and case["max_new_tokens"] + g.prompt(case).shape[1] <= 128:
                result = engine.generate(g.prompt(case)[0].tolist(), options_of(case))
                assert list(result.token_ids) == tokens_of(g, case_name), case_name
                assert result.stats.graph_level == 2
                checked += 1
        assert checked >= 2
        rows = [[5, 6, 7], [8, 9]]
        ar = engine.generate(rows, mode="ar", max_new_tokens=10, stop_at_eos=False)
        lossless = engine.generate(rows, mode="lossless", max_new_tokens=10, stop_at_eos=False)
        assert [row.token_ids for row in lossless] == [row.token_ids for row in ar]
    assert not any(device.blocks or device.pinned_bytes for device in fake_gpus)
    assert all(device.closed for device in fake_gpus)


@pytest.mark.parametrize("device", ["cuda:0", "cuda:0,cuda:1"])
def test_verify_sees_the_states(bundles, engines, engine_folders, fake_gpus, device):
    """Its calls, on engines and on the torch towers: every state tensor is compared after each of them."""
    load = {"engines": engine_folders("tiny_a"), "device": device}
    with ttc.load(bundles("tiny_a"), "tensorrt-rtx", **load) as engine:
        scenario = make_scenario(engine.config, Shapes.within(engine._backend.limits))
        got, due = (
            list(observe(Candidate(backend, "float32", "", "", shows_layers=False), scenario, 128))
            for backend in (engine._backend, engines("tiny_a", "torch")._backend)
        )
    for a, b in zip(got, due, strict=True):
        compared = list(compare(a, b, tolerances_of("float32"), "torch", {}))
        assert not [line for line in compared if not line.passed], a.call
        tensors = {line.tensor for line in compared}
        assert tensors >= {"conv_state", "ssm_state", "k_cache", "v_cache"}, a.call


def test_the_second_gpu_is_too_small(bundles, engine_folders, fake_gpus):
    fake_gpus[1].total = 2**30
    with pytest.raises(DeviceMemoryError, match=r"cuda:1 has 1\.1 GB free, .* due: weights denoiser"):
        ttc.load(bundles("tiny_a"), "tensorrt-rtx", "cuda:0,cuda:1", engines=engine_folders("tiny_a"))
    assert not any(device.blocks for device in fake_gpus)
    assert all(device.closed for device in fake_gpus)


@pytest.mark.parametrize("form", ["cut", "whole"])
@pytest.mark.parametrize("choice", [{}, {"temperature": 0.9, "seed": 3}], ids=["greedy", "sampled"])
def test_the_modes_that_write_what_ar_writes(bundles, engines, engine_folders, fake_gpu, form, choice):
    prompts, options = [[5, 6, 7, 8], [9, 10], list(range(3, 30))], {"max_new_tokens": 10} | choice
    want = engines("tiny_a", "torch").generate(prompts, "ar", **options)
    with ttc.load(bundles("tiny_a"), "tensorrt-rtx", engines=engine_folders("tiny_a", form)) as engine:
        for mode in ("ar", "lossless", "prompt-lookup"):
            got = engine.generate(prompts, mode, **options)
            assert [row.token_ids for row in got] == [row.token_ids for row in want], mode
            assert not [note for note in got[0].stats.notes if "chosen on the host" in note]


def test_whole_engines_without_triton_choose_on_the_host(
    bundles, engines, engine_folders, fake_gpu, monkeypatch
):
    monkeypatch.setattr(loading, "PtxOps", PtxOps)
    monkeypatch.setitem(sys.modules, "ttc.plugins.kernels", None)
    want = engines("tiny_a", "torch").generate([5, 6], "ar", max_new_tokens=6)
    with ttc.load(bundles("tiny_a"), "tensorrt-rtx", engines=engine_folders("tiny_a", "whole")) as engine:
        got = engine.generate([5, 6], "ar", max_new_tokens=6)
    assert got.token_ids == want.token_ids
    assert any("chosen on the host" in n and "triton is not installed" in n for n in got.stats.notes)


def test_nothing_is_asked_of_tensorrt_before_the_checks(bundles, engine_folders, tmp_path, api):
    folder = changed(engine_folders("tiny_a"), tmp_path, lambda c: None)
    engine = folder / "denoiser-00.engine"
    engine.write_bytes(engine.read_bytes()[:-1] + b"!")
    with pytest.raises(DigestError, match=r"denoiser-00\.engine: its content is not what was built"):
        ttc.load(bundles("tiny_a"), "tensorrt-rtx", engines=folder)
    engine.write_bytes(engine.read_bytes()[:100])
    with pytest.raises(DigestError, match=r"denoiser-00\.engine: 100 bytes"):
        ttc.load(bundles("tiny_a"), "tensorrt-rtx", engines=folder)
    engine.unlink()
    with pytest.raises(BundleError, match=r"denoiser-00\.engine: missing"):
        ttc.load(bundles("tiny_a"), "tensorrt-rtx", engines=folder)
    assert not api.calls


@pytest.mark.parametrize(
    ("change", "error", "complaint"),
    [
        (lambda c: c.update(backend="tensorrt"), BackendError, "built for tensorrt, not for"),
        (
            lambda c: c.update(backend_version="1.6.9"),
            BackendError,
            r"built with .* 1\.6\.9, but 1\.7\.0\.1",
        ),
        (
            lambda c: c["sources"].update(denoiser="0" * 64),
            BundleError,
            "its denoiser was built from another",
        ),
        (lambda c: c["sources"].pop("step"), BundleError, "no engine for step; build again"),
        (lambda c: c["sources"].update(other="0" * 64), BundleError, "a graph 'other' that"),
        (
            lambda c: c.update(compute_dtype="bfloat16"),
            BundleError,
            "built for bfloat16, the",
        ),
        (lambda c: c["programs"].pop("context"), BundleError, "no program for context; build again"),
        (lambda c: c["profile"].update(batch={"min": 2}), BundleError, "profile: batch is .*build again"),
    ],
)
def test_engines_of_something_else_are_refused(
    bundles, engine_folders, tmp_path, api, change, error, complaint
):
    folder = changed(engine_folders("tiny_a"), tmp_path, change)
    with pytest.raises(error, match=complaint):
        ttc.load(bundles("tiny_a"), "tensorrt-rtx", engines=folder)
    assert not api.calls


def test_trusted_engines(bundles, engine_folders, tmp_path, api, keys):
    folder = changed(engine_folders("tiny_a"), tmp_path, lambda c: None)
    private, public, foreign = keys
    load = lambda trust: ttc.load(bundles("tiny_a"), "tensorrt-rtx", engines=folder, trust=trust)  # noqa: E731
    with pytest.raises(DigestError, match=r"engines\.json\.sig: missing; these engines are not signed"):
        load(public)
    (folder / SIGNATURE_FILE).write_bytes(sign((folder / MANIFEST_FILE).read_bytes(), private))
    with pytest.raises(DigestError, match="not signed by the key in"):
        load(foreign)
    with pytest.raises(BackendError, match="no driver here"):
        load(public)
    assert not api.calls


@pytest.fixture(scope="module")
def keys(tmp_path_factory):
    """Private key, its public key, and a public key of somebody else, as PEM files."""
    from cryptography.hazmat.primitives import serialization as s
    from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey

    folder = tmp_path_factory.mktemp("keys")
    found = []
    for name in ("own", "foreign"):
        key = Ed25519PrivateKey.generate()
        private, public = folder / f"{name}.pem", folder / f"{name}.pub"
        private.write_bytes(key.private_bytes(s.Encoding.PEM, s.PrivateFormat.PKCS8, s.NoEncryption()))
        form = s.PublicFormat.SubjectPublicKeyInfo
        public.write_bytes(key.public_key().public_bytes(s.Encoding.PEM, form))
        found += [private, public]
    return found[0], found[1], found[3]


def test_without_a_driver(bundles, engine_folders, api):
    """The checks pass; then a machine without a GPU says so."""
    import torch

    if torch.cuda.is_available():
        pytest.skip("there is a GPU here")
    with pytest.raises(BackendError, match=r"needs an NVIDIA GPU.*or use backend 'onnxruntime'"):
        ttc.load(bundles("tiny_a"), "tensorrt-rtx", engines=engine_folders("tiny_a"))
    assert not api.calls


def test_no_engines_at_all(bundles):
    with pytest.raises(BundleError, match=r"engines/engines\.json: missing; .*`ttc build`"):
        ttc.load(bundles("tiny_a"), "tensorrt-rtx")


def test_settings_that_mean_nothing(bundles, engine_folders):
    bundle, engines = bundles("tiny_a"), engine_folders("tiny_a")
    with pytest.raises(InputError, match="backend 'torch' runs no engines; leave out trust"):
        ttc.load(bundle, "torch", trust="key.pub")
    with pytest.raises(InputError, match="backend 'onnxruntime' runs no engines; leave out engines"):
        ttc.load(bundle, engines=engines)
    with pytest.raises(InputError, match="has no CUDA graphs"):
        ttc.load(bundle, graph_level=2)
    with pytest.raises(InputError, match="threads is for backend 'onnxruntime'"):
        ttc.load(bundle, "tensorrt", threads=2)
    with pytest.raises(InputError, match="device is 'cpu'; backend 'tensorrt' runs on cuda"):
        ttc.load(bundle, "tensorrt", "cpu")


def test_beyond_what_the_engines_were_built_for(bundles, engine_folders, fake_gpu):
    with ttc.load(bundles("tiny_a"), "tensorrt-rtx", engines=engine_folders("tiny_a")) as engine:
        with pytest.raises(InputError, match=r"a batch of 5; the engines were built for 1 to 4"):
            engine.generate([[5, 6]] * 5, max_new_tokens=8)
        with pytest.raises(InputError, match=r"a block of 32 tokens; the engines were built for 1 to 16"):
            engine.generate([5, 6], max_new_tokens=8, block_size=32)
        with pytest.raises(CapacityError, match=r"142 tokens are due, .* a capacity of 16 to 128"):
            engine.generate([5, 6], max_new_tokens=140)
        with pytest.raises(InputError, match=r"a block of 17 tokens"):
            engine.denoiser_logits([5], [3] * 17, 0.5)
        # More positions than an engine gives at once, and a prompt longer than it reads at once.
        assert engine.context_logits(list(range(3, 43))).shape[0] == 40
        assert engine.generate([5, 6], mode="mock-ar", max_new_tokens=3).token_ids


def test_engines_of_fixed_lengths(bundles, tmp_path, fake_gpu):
    """Block and chunk fixed: one engine reads a token, one a block, one a chunk; the rest is filled up."""
    fixed = PROFILE.override({"block": {"min": 8, "max": 8}, "chunk": {"min": 16, "opt": 16}})
    folder = write_engines(bundles("tiny_a"), tmp_path / "fixed", "whole", fixed)
    assert {"context-1", "context-8", "context-16"} <= {path.stem for path in folder.glob("*.engine")}
    g, checked = golden("tiny_a"), 0
    with ttc.load(bundles("tiny_a"), "tensorrt-rtx", engines=folder) as engine:
        for case_name, case in recorded("tiny_a", 40).items():
            if case["block_size"] == 8:
                result = engine.generate(g.prompt(case)[0].tolist(), options_of(case))
                assert list(result.token_ids) == tokens_of(g, case_name), case_name
                checked += 1
        assert checked >= 3
        assert len(engine.generate([5, 6], mode="ar", max_new_tokens=3).token_ids) <= 3
        with pytest.raises(CapacityError, match=r"calls over 16 tokens keep 15 free"):
            engine.generate([5, 6], max_new_tokens=112, block_size=8)


@pytest.mark.parametrize(("level", "kernel"), [(None, True), (None, False), (0, True)])
def test_a_context_call_moves_new_kv_not_caches(bundles, engine_folders, fake_gpu, level, kernel):
    """Golden tokens, however the new keys and values get into the caches, and no copy as large as a cache."""
    if not kernel:
        fake_gpu.kernels.pop(append_kv.KERNEL)
    copied = []
    copy = fake_gpu.copy
    fake_gpu.copy = lambda target, source: copied.append(source.nbytes) or copy(target, source)
    g = golden("tiny_a")
    load = {"engines": engine_folders("tiny_a"), "graph_level": level}
    with ttc.load(bundles("tiny_a"), "tensorrt-rtx", **load) as engine:
        for case_name, case in recorded("tiny_a", 40).items():
            if case["block_size"] <= 16 and case["max_new_tokens"] + g.prompt(case).shape[1] <= 128:
                result = engine.generate(g.prompt(case)[0].tolist(), options_of(case))
                assert list(result.token_ids) == tokens_of(g, case_name), case_name
                assert result.stats.graph_level == (2 if kernel and level is None else 0)
        assert any("ttc_write_cache_rows cannot be had" in n for n in result.stats.notes) != kernel
        # A call of another size, which is not replayed from a graph.
        state, four = engine._backend.new_state(2, 128), np.array([4, 4], np.int32)
        copied.clear()
        engine._backend.context(state, np.full((2, 4), 5, np.int32), four, np.zeros((2, 1), np.int32))
        caches = {name: array.nbytes for name, array in state.tensors.items() if "_cache." in name}
        mamba = sum(array.nbytes for array in state.tensors.values()) - sum(caches.values())
        moved = 0 if kernel and level is None else sum(caches.values()) * 4 // 128
        # The Mamba state is copied with the gaps that keep its tensors aligned.
        gaps = ALIGNMENT * (len(state.tensors) - len(caches))
        assert mamba + moved <= sum(copied) < mamba + moved + gaps
        assert gaps < min(caches.values())


def test_engines_that_give_whole_caches_are_refused(bundles, tmp_path, fake_gpu, monkeypatch):
    """What an older `ttc build` made."""
    monkeypatch.setattr("ttc.exporter.engines.build_input.caches_to_new_kv", lambda model: False)
    for form in ("cut", "whole"):
        folder = write_engines(bundles("tiny_a"), tmp_path / form, form)
        with (
            ttc.load(bundles("tiny_a"), "tensorrt-rtx", engines=folder) as engine,
            pytest.raises(BundleError, match=r"build .*again"),
        ):
            engine.generate([5, 6], max_new_tokens=8)


def test_an_engine_that_cannot_be_captured_runs_without_graphs(bundles, engine_folders, fake_gpu, api):
    load = {"backend": "tensorrt-rtx", "engines": engine_folders("tiny_a")}
    options = {"max_new_tokens": 40, "block_size": 8, "stop_at_eos": False}
    with ttc.load(bundles("tiny_a"), **load) as engine:
        want = engine.generate([5, 6], **options)
    assert want.stats.graph_level == 2
    asked, contexts = api.calls.count("is_stream_capturable"), api.calls.count("context")
    assert asked >= contexts
    api.refuse = "is_stream_capturable"
    with ttc.load(bundles("tiny_a"), **load) as engine:
        result = engine.generate([5, 6], **options)
    assert (result.token_ids, result.stats.graph_level) == (want.token_ids, 0)
    assert any("says that engine context-00 cannot be captured" in note for note in result.stats.notes)


def test_memory_that_runs_out_between_engines(bundles, engine_folders, fake_gpu, monkeypatch):
    """Wherever it does: the next try binds them to scratch memory that is there."""
    run, allocate = FakeContext.execute_async_v3, fake_gpu.allocate
    scratch = property(lambda engine: 1000 * len(engine.session.get_inputs()))
    monkeypatch.setattr(FakeEngine, "device_memory_size_v2", scratch)

    def execute(context, stream):
        assert context.memory[0] in fake_gpu.blocks, "scratch memory that was given back"
        return run(context, stream)

    monkeypatch.setattr(FakeContext, "execute_async_v3", execute)
    with ttc.load(bundles("tiny_a"), "tensorrt-rtx", engines=engine_folders("tiny_a")) as engine:
        backend, refused = engine._backend, 0
        state = backend.new_state(1, 64)
        while True:
            left = iter(range(refused, -1, -1))

            def scarce(nbytes, left=left):
                if next(left, None) == 0:
                    raise DeviceMemoryError("cuda:0: too little is free")
                return allocate(nbytes)

            fake_gpu.allocate = scarce
            try:
                backend.buffers_of(state).context(4, 1)
                break
            except DeviceMemoryError:
                refused += 1
        assert refused > 5
        ids, place = np.array([[5, 6, 7, 8]], np.int32), np.zeros((1, 1), np.int32)
        backend.context(state, ids, np.array([4], np.int32), place)


@pytest.mark.parametrize("call", ["deserialize", "set_input_shape", "execute"])
def test_an_engine_that_refuses_is_named(bundles, engine_folders, fake_gpu, api, call):
    api.refuse = call
    with pytest.raises(BackendError, match=r"engine (context|denoiser|step|advance)-\d\d"):
        ttc.load(bundles("tiny_a"), "tensorrt-rtx", engines=engine_folders("tiny_a")).generate(
            [5, 6], max_new_tokens=16
        )
    if call == "deserialize":
        assert not fake_gpu.blocks
        assert fake_gpu.closed


def test_too_little_memory_is_known_before_an_engine_is_touched(bundles, engine_folders, fake_gpu, api):
    fake_gpu.total = 2**30
    with pytest.raises(DeviceMemoryError, match=r"cuda:0 has 1\.1 GB free, .* are due: weights"):
        ttc.load(bundles("tiny_a"), "tensorrt-rtx", engines=engine_folders("tiny_a"))
    assert not api.calls
    assert not fake_gpu.blocks


def test_the_progress_of_the_weights(bundles, engine_folders, fake_gpu):
    seen = []
    load = {"engines": engine_folders("tiny_a"), "progress": lambda done, total: seen.append((done, total))}
    with ttc.load(bundles("tiny_a"), "tensorrt-rtx", **load), Bundle.open(bundles("tiny_a")) as bundle:
        total = sum(bundle.read_weight(name).nbytes for name in bundle.weights)
    assert seen[-1] == (total, total)
    assert [done for done, _ in seen] == sorted(done for done, _ in seen)
    assert importlib.import_module("ttc.runtime.gpu.weights").STAGING_BYTES > 0
