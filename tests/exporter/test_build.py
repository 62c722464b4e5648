"""Building engines with TensorRT-RTX, which needs no GPU for it; the bad-input list; cache and signatures."""

import errno
import json
import os
import signal
import subprocess
import sys
from pathlib import Path

import onnx
import onnx.parser
import onnx_ir as ir
import pytest

from ttc import tensorrt_package
from ttc.bundle import GRAPH_ROLES, Bundle
from ttc.engines import MANIFEST_FILE, SIGNATURE_FILE, EngineFolder
from ttc.errors import BackendError, BundleError, DigestError, InputError, MissingDependencyError
from ttc.exporter import build as build_module
from ttc.exporter import tensorrt_api
from ttc.exporter.build import build
from ttc.exporter.jobs import make_jobs
from ttc.exporter.planning import Settings, make_plan
from ttc.profiles.building import load_build_profile

pytest.importorskip("tensorrt_rtx", reason="TensorRT-RTX is not installed")
OWN = """<ir_version: 10, opset_import: ["" : 21]> g (float[4] x, float[4] w) => (float[4] y)
{ c = Cast <to = 1> (w) y = Mul (x, c) }"""
CHECKPOINTS = ("tiny_a", "tiny_b", "tiny_c", "miniature")
MODEL = """<ir_version: 10, opset_import: ["" : 21]> g (float[N, 4] x) => (float[N, 4] y) { y = Relu (x) }"""


@pytest.fixture(autouse=True)
def cache_folder(tmp_path, monkeypatch):
    monkeypatch.setenv("TTC_CACHE_DIR", str(tmp_path / "cache"))
    return tmp_path / "cache"


@pytest.fixture
def step(bundles):
    """A graph that builds in half a second."""
    return bundles("tiny_a") / "step.onnx"


def write_model(path, text=MODEL):
    onnx.save(onnx.parser.parse_model(text), path)
    return path


def content(folder):
    return {path.name: path.read_bytes() for path in folder.iterdir()}


@pytest.mark.slow
@pytest.mark.parametrize("form", ["whole", "cut"])
@pytest.mark.parametrize(
    ("name", "dtype"), [(name, "float32") for name in CHECKPOINTS] + [("miniature", None)]
)
def test_every_golden_checkpoint_builds(bundles, tmp_path, name, dtype, form):
    report = build(bundles(name, dtype), tmp_path / "out", form=form)
    folder = EngineFolder.open(report.output)
    assert set(folder.manifest.sources) == set(GRAPH_ROLES)
    assert sum(len(graph.engines) for graph in report.graphs) == len(folder.manifest.engines)
    if form == "cut":
        for role in GRAPH_ROLES:
            assert set(folder.program(role).engines) == {
                n for n, engine in folder.manifest.engines.items() if engine.role == role
            }
    else:
        assert {engine.role for engine in folder.manifest.engines.values()} == set(GRAPH_ROLES)


def test_tensors_and_ranges_are_the_contract(bundles, tmp_path):
    profile = load_build_profile("throughput").override({"capacity": {"opt": 512, "max": 4096}})
    with Bundle.open(bundles("tiny_a")) as bundle:
        config, path = bundle.config, bundle.graph_path("denoiser")
        weights = {name for name, entry in bundle.weights.items() if "denoiser" in entry.graphs}
    report = build(path, tmp_path / "out", profile=profile)
    assert report.output == tmp_path / "out"
    engine = EngineFolder.open(report.output).manifest.engines["denoiser"]
    tensors = {tensor.name: tensor for tensor in engine.inputs}
    assert {tensor.name for tensor in engine.inputs if tensor.kind == "weight"} == weights
    named = [value.name for value in ir.load(path).graph.inputs]
    assert [tensor.name for tensor in engine.inputs if tensor.kind == "tensor"] == named
    ids, cache = tensors["block_ids"], tensors["k_cache.3"]
    assert (ids.dtype, ids.shape) == ("int32", ("B", "L"))
    assert (ids.min, ids.opt, ids.max) == ((1, 1), (16, 16), (32, 32))
    heads, width = config.num_key_value_heads, config.head_dim
    assert cache.shape == ("B", heads, "C", width)
    assert (cache.min, cache.max) == ((1, heads, 128, width), (32, heads, 4096, width))
    (logits,) = engine.outputs
    assert (logits.name, logits.dtype, logits.shape) == ("logits", "float32", ("B", "L", config.vocab_size))


def test_a_fixed_profile_gives_an_engine_for_each_length(bundles, tmp_path):
    profile = load_build_profile("latency").override({"capacity": {"max": 2048}})
    plan = make_plan(bundles("tiny_a") / "context.onnx", tmp_path / "out", Settings(profile=profile))
    (graph,) = plan.graphs
    assert [network.name for network in graph.networks] == ["context-1", "context-16", "context-128"]
    jobs, _ = make_jobs(graph.source, "whole", graph.networks, bake=False)
    for job, length in zip(jobs, (1, 16, 128), strict=True):
        tensors = {tensor.name: tensor for tensor in (*job.inputs, *job.outputs)}
        assert tensors["input_ids"].shape == (1, length)
        assert tensors["saved_xbc.0"].shape[:2] == (1, length)
        positions = tensors["logit_positions"]
        assert (positions.min, positions.max) == ((1, 1), (1, min(length, 16)))
        assert tensors["k_cache.3"].shape[2] == "C"
    assert len(make_jobs(graph.source, "cut", graph.networks[:1], bake=False)[0]) > 1


def test_baked_weights_are_inside(bundles, tmp_path):
    for bake in (False, True):
        report = build(bundles("tiny_a") / "advance.onnx", tmp_path / str(bake), bake=bake)
        manifest = EngineFolder.open(report.output).manifest
        kinds = {tensor.kind for tensor in manifest.engines["advance"].inputs}
        assert manifest.baked is bake
        assert kinds == ({"tensor"} if bake else {"tensor", "weight"})


@pytest.mark.parametrize(("role", "form"), [("step", "cut"), ("advance", "whole"), ("context", "cut")])
def test_two_builds_are_the_same_bytes(bundles, tmp_path, role, form):
    # Of several outputs the library takes the order from their addresses (ttc.exporter.isolated).
    model = bundles("tiny_a") / f"{role}.onnx"
    first = build(model, tmp_path / "one", form=form, cache=False, check_reproducible=True)
    second = build(model, tmp_path / "two", form=form, cache=False)
    assert first.reproducible is True
    assert second.reproducible is None
    assert content(first.output) == content(second.output)


def test_a_build_that_is_not_reproducible_is_told(step, tmp_path, monkeypatch):
    made = iter(range(100))
    real = build_module._Work._build
    monkeypatch.setattr(
        build_module._Work, "_build", lambda self, graph: real(self, graph) | {"step.x": bytes([next(made)])}
    )
    with pytest.raises(BackendError, match="step: two builds of it differ"):
        build(step, tmp_path / "out", check_reproducible=True)
    assert not (tmp_path / "out").exists()


def test_the_cache_hits_and_misses(bundles, step, tmp_path, monkeypatch):
    def cached(**changes):
        (graph,) = build(step, tmp_path / "out", **changes).graphs
        return graph.cached

    assert not cached()
    assert cached()
    assert not cached(shapes={"batch": {"max": 2}})
    assert not cached(targets=("8.9",))
    assert not cached(form="cut")
    assert not cached(cache=False)
    assert cached()
    with monkeypatch.context() as changed:
        changed.setattr(build_module, "kernel_digests", lambda: {"DiffusionStep": "0"})
        assert not cached()
    with monkeypatch.context() as changed:
        changed.setattr("ttc.exporter.planning.backend_version", lambda backend: "1.7.9")
        assert not cached()
    # One weight of another dtype.
    path = write_model(tmp_path / "own.onnx", OWN)
    assert not build(path).graphs[0].cached
    assert build(path).graphs[0].cached
    write_model(path, OWN.replace("float[4] w", "float16[4] w"))
    assert not build(path).graphs[0].cached


def test_a_damaged_cache_entry_is_built_again(step, tmp_path, cache_folder):
    build(step, tmp_path / "out")
    (engine,) = cache_folder.glob("*/step.engine")
    engine.write_bytes(b"x" + engine.read_bytes()[1:])
    report = build(step, tmp_path / "out")
    assert not report.graphs[0].cached
    EngineFolder.open(report.output)
    assert build(step, tmp_path / "out").graphs[0].cached


def test_a_cache_that_cannot_be_written_to_costs_no_build(step, tmp_path, monkeypatch):
    (tmp_path / "file").touch()
    monkeypatch.setenv("TTC_CACHE_DIR", str(tmp_path / "file"))
    report = build(step, tmp_path / "out")
    EngineFolder.open(report.output)
    assert any("not kept in the cache" in note and "TTC_CACHE_DIR" in note for note in report.notes)


def test_foreign_onnx_is_built_as_it_is(tmp_path):
    path = write_model(tmp_path / "own.onnx")
    with pytest.raises(InputError, match=r"dynamic dimension 'N'.*--min-shapes.*N:NUMBER"):
        build(path)
    report = build(path, shapes={"N": {"min": 1, "opt": 4, "max": 8}})
    assert report.output == tmp_path / "own.engines"
    (tensor,) = EngineFolder.open(report.output).manifest.engines["own"].inputs
    assert (tensor.min, tensor.opt, tensor.max) == ((1, 4), (4, 4), (8, 4))
    with pytest.raises(InputError, match=r"not exported by ttc.*--form whole"):
        build(path, form="cut", shapes={"N": {"max": 8}})


BAD_MODELS = {
    "opset": (MODEL.replace("21", "9"), "opset 9; valid: 13 to 24"),
    "custom": (
        MODEL.replace('"" : 21', '"" : 21, "acme" : 1').replace("Relu", "acme.Frob"),
        "calls acme::Frob, a custom op without a function body",
    ),
    "ours": (
        MODEL.replace('"" : 21', '"" : 21, "ttc" : 1').replace("Relu", "ttc.Frob"),
        "calls ttc::Frob, made by another version of ttc",
    ),
    "op": (
        MODEL.replace("y = Relu (x)", "y = Relu (x) z = NonZero (x)").replace(
            "=> (float[N, 4] y)", "=> (float[N, 4] y, int64[2, M] z)"
        ),
        "tensorrt-rtx has no NonZero",
    ),
    "dtype": (MODEL.replace("float[", "double["), "'x' is double"),
    "name": (MODEL.replace("Relu", "NoSuchOp"), "ONNX opset 21 has no NoSuchOp"),
    "det": (MODEL.replace("float[N, 4] y", "float y").replace("Relu", "Det"), "tensorrt-rtx has no Det"),
    "dim": (MODEL.replace("N", "M"), "dynamic dimension 'M'"),
}


@pytest.mark.parametrize("kind", BAD_MODELS)
def test_what_cannot_be_built_is_said_before_it_starts(tmp_path, kind):
    text, complaint = BAD_MODELS[kind]
    path = write_model(tmp_path / "bad.onnx", text)
    shapes = {"N": {"max": 8}}
    assert any(complaint in p for p in make_plan(path, None, Settings(shapes=shapes)).problems)
    with pytest.raises(InputError, match=complaint):
        build(path, shapes=shapes)
    assert sorted(p.name for p in tmp_path.iterdir()) == ["bad.onnx"]


def test_files_that_are_not_onnx(tmp_path):
    path = tmp_path / "x.onnx"
    with pytest.raises(InputError, match="no such file or folder"):
        build(path)
    path.write_bytes(b"\x00garbage" * 99)
    with pytest.raises(InputError, match="not an ONNX file"):
        build(path)
    with pytest.raises(BundleError, match="not a bundle"):
        build(tmp_path)


def with_external_data(path):
    weight = onnx.helper.make_tensor("w", onnx.TensorProto.FLOAT, [4, 4], bytes(64), raw=True)
    model = onnx.parser.parse_model(MODEL.replace("y = Relu (x)", "y = MatMul (x, w)"))
    model.graph.initializer.append(weight)
    onnx.save(model, path, save_as_external_data=True, location="x.data", size_threshold=0)
    return path


def test_external_data(tmp_path):
    path = with_external_data(tmp_path / "x.onnx")
    first = content(build(path, shapes={"N": {"max": 8}}).output)
    (tmp_path / "x.data").write_bytes(bytes(60) + b"\0\0\x80\x3f")
    assert content(build(path, shapes={"N": {"max": 8}}).output)["x.engine"] != first["x.engine"]


def test_missing_external_data(tmp_path):
    path = with_external_data(tmp_path / "x.onnx")
    (tmp_path / "x.data").unlink()
    with pytest.raises(InputError, match=r"x\.data: missing or shorter than the 64 bytes"):
        build(path, shapes={"N": {"max": 8}})


@pytest.mark.parametrize(
    ("changes", "complaint"),
    [
        ({"shapes": {"batch": {"min": 4}}}, "batch is min 4, opt 1, max 1; valid: min ≤ opt ≤ max"),
        ({"shapes": {"block": {"max": 1024}}}, "block.max is 1024; valid: 1 to 512 tokens"),
        ({"shapes": {"capacity": {"max": 9000}}}, "capacity.max is 9000, but the model has 4096 positions"),
        ({"shapes": {"bathc": {"max": 1}}}, "no dimension 'bathc'; valid: batch, block"),
        ({"profile": "h100"}, "target 9.0 .*use --backend tensorrt on a machine with that GPU"),
        ({"profile": "nobody"}, "no profile 'nobody'; valid: b200, dgx-spark"),
        ({"targets": ("7.7",)}, "target '7.7' is unknown; TensorRT-RTX builds for 7.5, 8.0"),
        ({"form": "half"}, "form is 'half'; valid: whole, cut"),
        ({"backend": "onnx"}, "backend is 'onnx'; valid: tensorrt, tensorrt-rtx"),
        ({"timing_cache": "x"}, "--timing-cache is for --backend tensorrt"),
        ({"sign": "nokey.pem"}, "nokey.pem: cannot be read"),
        ({"shapes": {"batch": {"max": 10**12}}}, "batch.max is 1000000000000; valid: .* 1 to 2147483647"),
    ],
)
def test_settings_that_do_not_fit(step, tmp_path, changes, complaint):
    with pytest.raises(InputError, match=complaint):
        build(step, tmp_path / "out", **changes)
    assert not (tmp_path / "out").exists()


def test_what_does_not_fit_the_profiles_gpu_is_noted(bundles, tmp_path):
    path = tmp_path / "small.toml"
    text = (Path(build_module.__file__).parents[1] / "profiles/presets/rtx-5090.toml").read_text()
    path.write_text(
        text.replace("gpu_memory_gb = 32", "gpu_memory_gb = 1").replace("max = 8192", "max = 4096")
    )
    assert not make_plan(bundles("tiny_a"), None, Settings(profile=path)).notes
    many = Settings(profile=path, shapes={"batch": {"max": 4096}})
    (note,) = [n for n in make_plan(bundles("tiny_a"), None, many).notes if "both towers" in n]
    assert note.endswith("GB on one GPU, and profile small is for 1 GB")


def test_an_output_that_cannot_be_is_said_before_it_starts(step, tmp_path):
    (tmp_path / "file").touch()
    plan = make_plan(step, tmp_path / "file" / "out", Settings())
    assert plan.problems == (
        f"{tmp_path / 'file' / 'out'}: {tmp_path / 'file'} is a file; name another output",
    )


def test_precision_is_a_requirement(step, tmp_path):
    own = tmp_path / "own.toml"
    text = (Path(build_module.__file__).parents[1] / "profiles/presets/latency.toml").read_text()
    own.write_text(text.replace('"any"', '"bfloat16"').replace("8192", "4096"))
    with pytest.raises(InputError, match="precision is bfloat16, but the graphs compute in float32"):
        build(step, tmp_path / "out", profile=own)
    own.write_text(text + "speed = 1\n")
    with pytest.raises(InputError, match="unknown or missing keys: speed"):
        build(step, tmp_path / "out", profile=own)


def test_bfloat16_for_a_gpu_that_has_none(bundles, tmp_path):
    with pytest.raises(InputError, match=r"target 7\.5 has no bfloat16"):
        build(bundles("miniature", None) / "step.onnx", tmp_path / "out", targets=("7.5",))


@pytest.mark.parametrize("backend", ["tensorrt", "tensorrt-rtx"])
def test_a_missing_library_says_what_to_install(step, tmp_path, monkeypatch, backend):
    monkeypatch.setattr(tensorrt_package.importlib.util, "find_spec", lambda name: None)
    with pytest.raises(MissingDependencyError, match=rf"pip install 'ttc\[{backend}\]'"):
        tensorrt_api.TensorRT.load(backend)
    with pytest.raises(InputError, match=rf"pip install 'ttc\[{backend}\]'"):
        build(step, tmp_path / "out", backend=backend)


def test_a_full_disk_leaves_nothing(step, tmp_path, monkeypatch):
    real = Path.write_bytes

    def write(path, data):
        if path.suffix == ".engine" and "cache" not in str(path):
            real(path, data[:1000])
            raise OSError(errno.ENOSPC, "No space left on device")
        return real(path, data)

    monkeypatch.setattr(Path, "write_bytes", write)
    with pytest.raises(BundleError, match="No space left on device; nothing was left there"):
        build(step, tmp_path / "out")
    assert [path.name for path in tmp_path.iterdir()] == ["cache"]


def script(step, output, pause):
    """A build in a process of its own that says when it is in the middle and then waits."""
    lines = (
        "import sys, time",
        "from ttc.exporter.build import build",
        "def say(what, done, total):",
        f"    if done == 1: print(what, flush=True); time.sleep({pause})",
        f"build({str(step)!r}, {str(output)!r}, cache=False, progress=say)",
    )
    return [sys.executable, "-c", "\n".join(lines)]


@pytest.mark.skipif(os.name == "nt", reason="needs signals")
def test_a_killed_build_leaves_nothing_at_the_destination(step, tmp_path):
    output = tmp_path / "out"
    process = subprocess.Popen(script(step, output, 60), stdout=subprocess.PIPE, text=True)
    assert process.stdout is not None
    with process.stdout:
        assert process.stdout.readline()
        process.send_signal(signal.SIGKILL)
        process.wait()
    assert not output.exists()
    build(step, output, cache=False)
    assert [path.name for path in tmp_path.iterdir()] == ["out"]
    EngineFolder.open(output)


def test_two_builds_of_one_output_at_once(step, tmp_path):
    output = tmp_path / "out"
    both = [subprocess.Popen(script(step, output, 0), stdout=subprocess.DEVNULL) for _ in range(2)]
    assert [process.wait(200) for process in both] == [0, 0]
    EngineFolder.open(output)
    assert [path.name for path in tmp_path.iterdir()] == ["out"]


def test_only_engines_are_replaced(step, tmp_path):
    output = tmp_path / "out"
    output.mkdir()
    (output / "thesis.txt").write_text("mine")
    with pytest.raises(InputError, match=r"holds 'thesis\.txt'"):
        build(step, output)
    assert (output / "thesis.txt").read_text() == "mine"


@pytest.fixture
def keys(tmp_path):
    from cryptography.hazmat.primitives import serialization
    from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey

    paths = []
    for name in ("mine", "other"):
        private = Ed25519PrivateKey.generate()
        pem = private.private_bytes(
            serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption()
        )
        public = private.public_key().public_bytes(
            serialization.Encoding.PEM, serialization.PublicFormat.SubjectPublicKeyInfo
        )
        for kind, data in (("private", pem), ("public", public)):
            paths.append(tmp_path / f"{name}-{kind}.pem")
            paths[-1].write_bytes(data)
    return paths


def test_signatures(step, tmp_path, keys):
    private, public, _, other = keys
    output = build(step, tmp_path / "out", sign=private).output
    EngineFolder.open(output)
    EngineFolder.open(output, trust=public)
    with pytest.raises(DigestError, match="not signed by the key in"):
        EngineFolder.open(output, trust=other)
    with pytest.raises(InputError, match=r"not a PEM public key.*openssl"):
        EngineFolder.open(output, trust=private)
    with pytest.raises(InputError, match="not an unencrypted PEM private key"):
        build(step, tmp_path / "no", sign=public)
    (output / SIGNATURE_FILE).unlink()
    with pytest.raises(DigestError, match="these engines are not signed"):
        EngineFolder.open(output, trust=public)


def flip(path, place=-1):
    data = bytearray(path.read_bytes())
    data[place] ^= 1
    path.write_bytes(bytes(data))


@pytest.mark.parametrize(
    ("harm", "error", "complaint"),
    [
        (lambda f: flip(f / "step.engine"), DigestError, "its content is not what was built"),
        (lambda f: os.truncate(f / "step.engine", 99), DigestError, "99 bytes"),
        (lambda f: (f / "step.engine").write_bytes(b"foreign"), DigestError, "7 bytes"),
        (lambda f: (f / "step.engine").unlink(), BundleError, "missing"),
        (lambda f: flip(f / MANIFEST_FILE, 60), BundleError, "engines.json"),
        (lambda f: (f / MANIFEST_FILE).write_text("{}"), BundleError, "'format' is missing"),
        (lambda f: (f / MANIFEST_FILE).unlink(), BundleError, "made by `ttc build`"),
    ],
)
def test_harmed_engines_are_refused(step, tmp_path, harm, error, complaint):
    output = build(step, tmp_path / "out").output
    harm(output)
    with pytest.raises(error, match=complaint):
        EngineFolder.open(output)


def test_an_engine_changed_after_opening_is_refused(step, tmp_path):
    folder = EngineFolder.open(build(step, tmp_path / "out").output)
    assert folder.engine("step") == (folder.path / "step.engine").read_bytes()
    flip(folder.path / "step.engine")
    with pytest.raises(DigestError):
        folder.engine("step")


def test_a_manifest_that_leads_outside_is_refused(step, tmp_path):
    output = build(step, tmp_path / "out").output
    path = output / MANIFEST_FILE
    manifest = EngineFolder.open(output).manifest
    import dataclasses

    record = manifest.files["step.engine"]
    for name in ("../step.engine", "/etc/passwd", "a/b.engine", "evil.sh", MANIFEST_FILE):
        path.write_bytes(dataclasses.replace(manifest, files={**manifest.files, name: record}).to_json())
        with pytest.raises(BundleError, match=r"plain relative path|no file of a set of engines"):
            EngineFolder.open(output)


def test_versions_are_compared(step, tmp_path):
    folder = EngineFolder.open(build(step, tmp_path / "out").output)
    version = folder.manifest.backend_version
    folder.check_version("tensorrt-rtx", version)
    with pytest.raises(BackendError, match=r"built with tensorrt-rtx .* but 1\.0 is installed"):
        folder.check_version("tensorrt-rtx", "1.0")
    with pytest.raises(BackendError, match="built for tensorrt-rtx, not for tensorrt"):
        folder.check_version("tensorrt", version)


def test_layers_are_written_when_asked_for(step, tmp_path):
    assert not (build(step, tmp_path / "one").output / "step.layers.json").exists()
    report = build(step, tmp_path / "two", layers=True)
    layers = json.loads((report.output / "step.layers.json").read_text())
    assert (
        len(layers)
        == report.graphs[0].layers
        == EngineFolder.open(report.output).manifest.engines["step"].layers
    )
    EngineFolder.open(report.output)


def test_the_plan_counts_memory(bundles):
    plan = make_plan(bundles("tiny_a"), None, Settings(shapes={"capacity": {"max": 4096}}))
    assert not plan.problems
    with Bundle.open(bundles("tiny_a")) as bundle:
        config = bundle.config
        for graph in plan.graphs:
            names = [n for n, entry in bundle.weights.items() if graph.source.role in entry.graphs]
            assert graph.memory.weights == sum(bundle.read_weight(name).nbytes for name in names)
    cache = 2 * config.pattern.count("*") * config.num_key_value_heads * 4096 * config.head_dim * 4
    denoiser = next(graph for graph in plan.graphs if graph.source.role == "denoiser")
    assert denoiser.memory.kv_cache == cache
    assert 0 < denoiser.memory.mamba_state < cache
    per_gpu, context = plan.memory_per_gpu, plan.graphs[0].memory
    both = context.weights + denoiser.memory.weights + denoiser.memory.state
    assert both < per_gpu["one"]["both towers"] < sum(per_gpu["two"].values())
    assert per_gpu["two"]["context tower"] == context.total
    assert denoiser.memory.results == 16 * config.vocab_size * 4
    assert denoiser.memory.work > 0
    assert json.loads(json.dumps(plan.to_dict()))["graphs"][0]["role"] == "context"


def test_progress_is_told(step, tmp_path):
    said = []
    build(step, tmp_path / "out", progress=lambda *line: said.append(line))
    assert said[0] == ("step", 0, 1)
    assert said[-1] == ("step", 1, 1)
    assert [line for line in said if line[0].startswith("step: ")]
