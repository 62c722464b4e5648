"""Checkpoint → bundle: packed and by reference, moved and damaged, interrupted, and of the real size."""

import dataclasses
import hashlib
import json
import os
import re
import shutil
import signal
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from safetensors.numpy import save_file

import ttc
from tests.support.golden import golden
from tests.support.real_size import REAL
from tests.support.sample import sample
from ttc.exporter.onnx.checkpoint import Checkpoint
from ttc.formats.manifest import FileRecord, Manifest
from ttc.model.bundle import Bundle
from ttc.model.config import ModelConfig
from ttc.model.weights import expected_tensors

G = golden("tiny_c")
PROMPT = G.vectors["prompt/p12"][0].tolist()


@pytest.fixture(scope="module")
def referenced(tmp_path_factory):
    """A copy of tiny_c's checkpoint, and a bundle that refers to it."""
    folder = tmp_path_factory.mktemp("referenced")
    checkpoint = folder / "checkpoint"
    shutil.copytree(G.folder, checkpoint)
    return checkpoint, ttc.export(checkpoint, folder / "model.bundle", pack=False)


@pytest.fixture
def copied(referenced, tmp_path):
    """The same, to damage: hard copies with their times."""
    checkpoint, bundle = referenced
    shutil.copytree(bundle, tmp_path / "model.bundle")
    return checkpoint, tmp_path / "model.bundle"


def bundle_bytes(bundle):
    return sum(path.stat().st_size for path in bundle.iterdir())


def test_referenced_and_packed_give_the_same(referenced, engines):
    _, bundle = referenced
    for backend in ("onnxruntime", "torch"):
        with ttc.load(bundle, backend) as engine:
            by_reference = engine.context_logits(PROMPT)
        packed = engines("tiny_c", backend)
        np.testing.assert_array_equal(by_reference, packed.context_logits(PROMPT))


def test_reference_copies_no_weights_and_names_every_tensor_once(referenced):
    checkpoint, bundle = referenced
    assert bundle_bytes(bundle) < 2_000_000
    with Bundle.open(bundle) as opened, Checkpoint.open(checkpoint) as source:
        taken = [tensor for entry in opened.weights.values() for tensor in entry.tensors]
        assert sorted(taken) == sorted(source.tensors)
        graphs = {role for entry in opened.weights.values() for role in entry.graphs}
        assert graphs == {"context", "denoiser", "advance"}
        assert all(entry.graphs for entry in opened.weights.values())


def test_changed_weight_file_is_noticed(referenced, tmp_path):
    checkpoint, bundle = referenced
    moved = tmp_path / "moved"
    shutil.copytree(checkpoint, moved)
    with ttc.load(bundle, checkpoint=moved) as engine:
        assert engine.context_logits(PROMPT).shape == (12, G.config.vocab_size)
    shard = next(moved.glob("model-*.safetensors"))
    shard.write_bytes(shard.read_bytes() + b"\0")
    with pytest.raises(ttc.TtcError, match=shard.name):
        ttc.load(bundle, checkpoint=moved)
    shard.unlink()
    with pytest.raises(ttc.TtcError, match=shard.name):
        ttc.load(bundle, checkpoint=moved)


def test_touched_weight_file_is_noticed(tmp_path, referenced):
    checkpoint, bundle = referenced
    shard = next(checkpoint.glob("model-*.safetensors"))
    before = shard.stat()
    try:
        os.utime(shard, ns=(before.st_atime_ns, before.st_mtime_ns + 1))
        with pytest.raises(ttc.DigestError, match=shard.name):
            ttc.load(bundle)
    finally:
        os.utime(shard, ns=(before.st_atime_ns, before.st_mtime_ns))


def test_damaged_graph_is_noticed_and_named(copied):
    _, bundle = copied
    graph = bundle / "denoiser.onnx"
    content = bytearray(graph.read_bytes())
    content[len(content) // 2] ^= 1
    graph.write_bytes(content)
    with pytest.raises(ttc.DigestError, match=r"denoiser\.onnx"):
        ttc.load(bundle)
    graph.unlink()
    with pytest.raises(ttc.BundleError, match=r"denoiser\.onnx"):
        ttc.load(bundle)


WEIGHT_KINDS = sorted(
    {re.sub(r"layers\.\d+|experts\.\d+|tables\.\d+", "*", name) for name in expected_tensors(G.config)}
)
# Without --full: one of every kind of layer and of what is outside of them, in either tower.
POISONED = [
    *("context_lm_head.weight", "context_tower.embeddings.weight", "context_tower.*.norm.weight"),
    *(f"context_tower.*.mixer.{name}" for name in ("A_log", "in_proj.weight", "conv1d.weight")),
    *(f"context_tower.*.mixer.{name}" for name in ("*.up_proj.weight", "gate.weight", "k_proj.weight")),
    *(f"denoiser_tower.*.mixer.{name}" for name in ("D", "dt_bias", "*.down_proj.weight", "o_proj.weight")),
    *("denoiser_tower.norm_f.weight", "lm_head.weight", "scale_shift_*", "t_embedder.mlp.2.weight"),
]


@pytest.mark.parametrize("kind", sample(WEIGHT_KINDS, POISONED))
def test_nan_in_a_weight_is_reported_not_decoded(referenced, tmp_path, kind):
    """One NaN in one tensor of every kind: refused at load or where it is met, never text."""
    checkpoint, bundle = referenced
    poisoned = tmp_path / "poisoned"
    shutil.copytree(checkpoint, poisoned)
    with Checkpoint.open(poisoned) as source:
        name = next(
            name
            for name in source.tensors
            if re.sub(r"layers\.\d+|experts\.\d+|tables\.\d+", "*", name) == kind
        )
        shard = next(shard for shard in source.shards.values() if name in shard.tensors)
        info, path = shard.tensors[name], shard.path
    with path.open("r+b") as file:
        file.seek(info.begin)
        file.write(np.full(info.nbytes // 4, np.nan, np.float32).tobytes())
    denoiser = not name.startswith("context")

    def run():
        with ttc.load(bundle, checkpoint=poisoned) as engine:
            # 70 tokens reach every expert of the first layer; the denoiser's weights need a block.
            prompt = G.vectors["prompt/p70"][0].tolist()
            engine.generate(prompt, "diffusion" if denoiser else "ar", max_new_tokens=32, stop_at_eos=False)

    with pytest.raises(ttc.NumericsError, match="NaN"):
        run()


@pytest.mark.parametrize("pattern", sample(["*", "E-", "-*"], ("-*",)))
def test_models_without_mamba_have_no_advance_graph_and_run(tmp_path, small_config, pattern):
    rng = np.random.default_rng(0)
    raw = small_config | {"hybrid_override_pattern": pattern, "num_hidden_layers": len(pattern)}
    raw["torch_dtype"] = "float32"
    tensors = {
        name: rng.standard_normal(shape).astype(np.float32) * 0.3
        for name, shape in expected_tensors(ModelConfig.from_hf(raw)).items()
    }
    (tmp_path / "checkpoint").mkdir()
    (tmp_path / "checkpoint" / "config.json").write_text(json.dumps(raw))
    save_file(tensors, tmp_path / "checkpoint" / "model.safetensors")
    bundle = ttc.export(tmp_path / "checkpoint", tmp_path / "model.bundle")
    assert not (bundle / "advance.onnx").exists()
    results = []
    for backend in ("onnxruntime", "torch"):
        with ttc.load(bundle, backend) as engine:
            # Without attention all masked places are alike, and which is taken first hangs on the last bit.
            mode = "diffusion" if "*" in pattern else "ar"
            made = engine.generate([1, 5, 7], mode=mode, max_new_tokens=24, stop_at_eos=False)
            results.append(made.token_ids)
            state = engine.runner.new_state(1, 16)
            call = engine.runner.context(
                state, *(np.zeros(s, np.int32) for s in ((1, 4), 1, (1, 1))), save=True
            )
            engine.runner.advance(state, call.saved, np.array([2], np.int32))
            assert state.lengths.tolist() == [2]
    assert results[0] == results[1]


@pytest.mark.parametrize("change", ["garbage", "mask_token_id", "hidden_size", "compute_dtype"])
def test_graphs_that_are_not_the_manifests_are_refused(copied, change):
    """Digests made right again after the change: the graph's own words still differ from the manifest's."""
    _, bundle = copied
    manifest = Manifest.from_json((bundle / "bundle.json").read_bytes())
    if change == "garbage":
        (bundle / "context.onnx").write_bytes(b"nothing like it")
        record = FileRecord(hashlib.sha256(b"nothing like it").hexdigest(), 15)
        manifest = dataclasses.replace(manifest, files={**manifest.files, "context.onnx": record})
    elif change == "compute_dtype":
        manifest = dataclasses.replace(manifest, compute_dtype="float16")
    else:
        model = {**manifest.model, change: manifest.model[change] + 1}
        manifest = dataclasses.replace(manifest, model=model)
    (bundle / "bundle.json").write_bytes(manifest.to_json())
    with pytest.raises(ttc.BundleError, match=r"context\.onnx"):
        ttc.load(bundle)


def test_bad_options_leave_nothing(tmp_path):
    with pytest.raises(ttc.InputError, match="dtype is 'int8'; valid: float32, float16, bfloat16"):
        ttc.export(G.folder, tmp_path / "x.bundle", dtype="int8")
    with pytest.raises(ttc.CheckpointError, match="no such folder"):
        ttc.export(tmp_path / "nothing", tmp_path / "x.bundle")
    (tmp_path / "empty").mkdir()
    with pytest.raises(ttc.CheckpointError, match=r"config\.json"):
        ttc.export(tmp_path / "empty", tmp_path / "x.bundle")
    assert sorted(path.name for path in tmp_path.iterdir()) == ["empty"]


def test_existing_output_needs_force(tmp_path, bundles):
    target = tmp_path / "x.bundle"
    target.mkdir()
    (target / "notes.txt").write_text("mine")
    with pytest.raises(ttc.InputError, match="exists already"):
        ttc.export(G.folder, target)
    with pytest.raises(ttc.InputError, match=r"notes\.txt|not a bundle"):
        ttc.export(G.folder, target, force=True)
    assert (target / "notes.txt").read_text() == "mine"


def leftovers(folder: Path) -> list[str]:
    return sorted(path.name for path in folder.iterdir())


def test_killed_export_leaves_nothing_and_is_swept(tmp_path):
    """SIGKILL in the middle: no bundle at the destination; the next run sweeps what was left beside it."""
    target = tmp_path / "x.bundle"
    code = (
        f"import ttc; ttc.export({str(G.folder)!r}, {str(target)!r}, progress=lambda s: print(s, flush=True))"
    )
    root = Path(__file__).parents[3]
    with subprocess.Popen(
        [sys.executable, "-c", code], stdout=subprocess.PIPE, text=True, cwd=root
    ) as process:
        assert process.stdout is not None
        for line in process.stdout:
            if "layer" in line:
                process.send_signal(signal.SIGKILL)
                break
    assert not target.exists()
    assert leftovers(tmp_path), "a killed process cannot clean up; if it left nothing this test shows nothing"

    class StopHere(Exception):
        pass

    def stop(line):
        raise StopHere

    with pytest.raises(StopHere):
        ttc.export(G.folder, target, progress=stop)
    assert leftovers(tmp_path) == [], "the next run swept, and an exception cleans up after itself"


@pytest.mark.slow
def test_real_size_export(tmp_path, small_config, sparse_checkpoint):
    """118 GiB of holes: small, every tensor referenced once, little memory."""
    raw = small_config | REAL
    config = ModelConfig.from_hf(raw)
    tensors = {
        name: ("F32" if name.endswith("e_score_correction_bias") else "BF16", shape)
        for name, shape in expected_tensors(config).items()
    }
    sparse_checkpoint(tmp_path / "checkpoint", raw, tensors, shards=24)
    on_disk = sum(path.stat().st_blocks * 512 for path in (tmp_path / "checkpoint").iterdir())
    assert on_disk < 50_000_000, "the checkpoint itself must be sparse for this test to be cheap"
    bundle = tmp_path / "real.bundle"
    code = (
        f"import resource, ttc; ttc.export({str(tmp_path / 'checkpoint')!r}, {str(bundle)!r}); "
        "print(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss)"
    )
    root = Path(__file__).parents[3]
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True, cwd=root)
    assert int(done.stdout) * 1024 < 6 * 2**30, "peak memory"
    assert bundle_bytes(bundle) < 60_000_000
    with Bundle.open(bundle) as opened:
        assert opened.weights_mode == "reference"
        taken = [tensor for entry in opened.weights.values() for tensor in entry.tensors]
        assert sorted(taken) == sorted(tensors)
        manifest = json.loads((bundle / "bundle.json").read_text())
        assert len(manifest["weights"]["shards"]) == 24
