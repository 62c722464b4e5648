"""`ttc verify` on sound bundles, its record, and what insists on it."""

import errno
import json
import math
import os
import shutil

import numpy as np
import pytest
from click.testing import CliRunner

import ttc
from tests.support.faults import rewrite
from tests.support.golden import golden
from ttc.base.names import BACKENDS
from ttc.cli import program
from ttc.errors import BackendError, BundleError, InputError
from ttc.formats.manifest import Manifest, ShardRecord, WeightMap
from ttc.formats.shard import Shard
from ttc.formats.verification import RECORD_FILE, Verification
from ttc.model.bundle import Bundle
from ttc.verify.compare import first_fault
from ttc.verify.report import Comparison
from ttc.verify.run import verify

FEW = {"prompts": [[5, 6, 7]], "max_new_tokens": 4}


@pytest.fixture
def bundle(bundles, tmp_path):
    """A copy of tiny_a's bundle that a test may write to."""
    without_record = shutil.ignore_patterns("verification.json")
    return shutil.copytree(bundles("tiny_a"), tmp_path / "a.bundle", ignore=without_record)


@pytest.mark.parametrize(
    ("name", "dtype"),
    [
        ("tiny_a", "float32"),
        pytest.param("tiny_b", "float32", marks=pytest.mark.full),
        pytest.param("tiny_c", "float32", marks=pytest.mark.full),
        ("tiny_b", None),
        ("miniature", None),
    ],
)
def test_every_backend_passes_on_sound_bundles(bundles, name, dtype):
    report = verify(bundles(name, dtype), layers=True, record=False, max_new_tokens=20)
    assert report.passed
    assert [backend.name for backend in report.backends] == ["onnxruntime", "torch"]
    assert {*report.skipped, "onnxruntime", "torch"} == set(BACKENDS), "engines need a GPU"
    for backend in report.backends:
        compared = {(c.tower, c.tensor) for c in backend.comparisons}
        assert {("context", "residual"), ("denoiser", "residual"), ("denoiser", "logits")} <= compared
        assert {c.layer for c in backend.comparisons if c.tensor == "residual"} == set(
            range(len(report.model))
        )


def test_bfloat16_is_measured_by_the_reference_in_bfloat16(bundles):
    report = verify(bundles("tiny_b", None), ["torch"], record=False, **FEW)
    (backend,) = report.backends
    assert backend.computes_in == "bfloat16"
    assert {c.reference for c in backend.comparisons} == {"float32", "bfloat16"}
    far = [c.distance for c in backend.comparisons if c.reference == "float32" and c.tensor == "logits"]
    assert min(far) > 1e-3, "bfloat16 is not float32; if it were, this would measure nothing"


def test_the_record_is_kept_and_insisted_on(bundle):
    with pytest.raises(BundleError, match="not verified as it is now"):
        ttc.load(bundle, require_verified=True)
    report = verify(bundle, ["onnxruntime"], **FEW)
    assert report.recorded == (str(bundle / RECORD_FILE),)
    with ttc.load(bundle, require_verified=True) as engine:
        assert engine.generate([5], max_new_tokens=1)
    with pytest.raises(BundleError, match="not verified on backend 'torch' \\(on: onnxruntime\\)"):
        ttc.load(bundle, "torch", require_verified=True)


def test_an_old_record_that_cannot_be_replaced_is_told(bundle, monkeypatch):
    verify(bundle, ["onnxruntime"], **FEW)
    old = (bundle / RECORD_FILE).read_bytes()

    def full(*_):
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    monkeypatch.setattr("os.fsync", full)
    words = f"verify {bundle} --backend onnxruntime --max-new-tokens 2".split()
    done = CliRunner().invoke(program, words)
    assert done.exit_code == 1
    assert "verdict: passed" in done.stdout, "the result is told even so"
    assert "No space left on device" in done.stderr
    assert "the record there is of an earlier verification" in done.stderr
    assert (bundle / RECORD_FILE).read_bytes() == old
    (bundle / RECORD_FILE).unlink()
    done = CliRunner().invoke(program, words)
    assert done.exit_code == 0, "nothing is there that could mislead"
    assert "no record was kept" in done.stderr


def test_a_linked_record_is_refused(bundle, tmp_path):
    (tmp_path / "elsewhere.json").write_text("{}")
    (bundle / RECORD_FILE).symlink_to(tmp_path / "elsewhere.json")
    with pytest.raises(BundleError, match=r"verification.json: a symbolic link"):
        ttc.load(bundle, require_verified=True)
    (tmp_path / "elsewhere.json").unlink()  # a link to nothing is no absent record
    with pytest.raises(BundleError, match=r"verification.json: a symbolic link"):
        ttc.load(bundle, require_verified=True)


def test_a_record_of_another_bundle_counts_for_nothing(bundle):
    verify(bundle, ["onnxruntime"], **FEW)
    manifest = json.loads((bundle / "bundle.json").read_text())
    rewrite(bundle, source={**manifest["source"], "note": "another export"})
    with pytest.raises(BundleError, match="not verified as it is now"):
        ttc.load(bundle, require_verified=True)


def test_a_failed_verification_is_refused(bundle, monkeypatch):
    monkeypatch.setattr(Comparison, "passed", property(lambda self: False))
    assert not verify(bundle, ["onnxruntime"], **FEW).passed
    with pytest.raises(BundleError, match="its last verification on backend 'onnxruntime' failed"):
        ttc.load(bundle, require_verified=True)


def test_a_changed_record_is_refused(bundle):
    verify(bundle, ["onnxruntime"], **FEW)
    path = bundle / RECORD_FILE
    path.write_text(path.read_text().replace('"passed": true', '"passed": false'))
    with pytest.raises(BundleError, match="changed since it was written"):
        Verification.read(bundle, "", None)


def test_what_is_loaded_is_what_was_verified(bundle, monkeypatch):
    """A verified state that takes the place of the one that was opened vouches for nothing."""
    verify(bundle, ["onnxruntime"], **FEW)
    verified, record = (bundle / "bundle.json").read_bytes(), (bundle / RECORD_FILE).read_bytes()
    manifest = json.loads(verified)
    rewrite(bundle, source={**manifest["source"], "note": "another export"})
    real = Bundle.open

    def swapped(*given, **named):
        opened = real(*given, **named)
        (bundle / "bundle.json").write_bytes(verified)
        (bundle / RECORD_FILE).write_bytes(record)
        return opened

    monkeypatch.setattr(Bundle, "open", swapped)
    with pytest.raises(BundleError, match="not verified as it is now"):
        ttc.load(bundle, require_verified=True)


def test_what_takes_its_place_meanwhile_gets_no_record(bundle):
    manifest = json.loads((bundle / "bundle.json").read_text())

    def replace(line):
        if line == "onnxruntime: tokens":
            rewrite(bundle, source={**manifest["source"], "note": "another export"})

    report = verify(bundle, ["onnxruntime"], progress=replace, **FEW)
    assert report.recorded == ()
    assert "replaced while it was verified; what is there now was not" in report.stale[0]
    with pytest.raises(BundleError, match="not verified as it is now"):
        ttc.load(bundle, require_verified=True)


def test_contents_of_weights(bundles, bundle, tmp_path):
    checkpoint = golden("tiny_a").folder
    report = verify(bundle, ["onnxruntime"], weights=True, checkpoint=checkpoint, record=False, **FEW)
    assert report.weights is not None
    assert report.weights.passed
    other = verify(
        bundle, ["onnxruntime"], weights=True, checkpoint=golden("tiny_b").folder, record=False, **FEW
    )
    assert not other.passed
    assert "not the checkpoint's" in other.weights.faults[0]


def test_contents_of_referenced_shards(bundle, tmp_path):
    copy = shutil.copytree(golden("tiny_a").folder, tmp_path / "checkpoint")
    shards = {path.name: ShardRecord.of(Shard.open(path)) for path in copy.glob("model-*.safetensors")}
    packed = Manifest.from_json((bundle / "bundle.json").read_bytes()).weights
    rewrite(bundle, weights=WeightMap("reference", packed.map, str(copy), shards))
    first = verify(bundle, ["onnxruntime"], weights=True, **FEW)
    assert first.passed
    assert first.weights is not None
    assert "recorded now" in first.weights.notes[0]
    shard = copy / "model-00001-of-00002.safetensors"
    times, content = shard.stat(), bytearray(shard.read_bytes())
    content[-1] ^= 1  # the lowest byte of the last weight: nothing that a header, size or time tells
    shard.write_bytes(content)
    os.utime(shard, ns=(times.st_atime_ns, times.st_mtime_ns))
    second = verify(bundle, ["onnxruntime"], weights=True, **FEW)
    assert not second.passed
    assert second.weights is not None
    assert "model-00001-of-00002.safetensors: its content is not" in second.weights.faults[0]


@pytest.mark.filterwarnings("ignore")  # transformers' own deprecations are not ours to mend
def test_against_transformers(bundles):
    report = verify(bundles("tiny_b"), ["onnxruntime"], against_transformers=True, record=False, **FEW)
    assert report.native is not None
    assert report.native.passed
    assert report.native.distance > 0


def test_the_command(bundles, monkeypatch):
    words = ["verify", str(bundles("tiny_a")), "--backend", "onnxruntime", "--no-record"]
    words += ["--prompt", "5 6", "--ids", "--max-new-tokens", "4"]
    told = CliRunner().invoke(program, words)
    assert told.exit_code == 0, told.output
    assert told.stdout.rstrip().endswith("verdict: passed")
    found = CliRunner().invoke(program, [*words, "--layers", "--json"])
    report = json.loads(found.stdout)
    assert report["passed"] is True
    assert {c["layer"] for c in report["backends"][0]["comparisons"]} >= {0, 6, None}
    monkeypatch.setattr(Comparison, "passed", property(lambda self: False))
    failed = CliRunner().invoke(program, words)
    assert failed.exit_code == 1
    assert "it begins in the context tower, layer 0 (Mamba-2)" in failed.stdout


@pytest.fixture
def no_reference(monkeypatch):
    """Whoever computes a reference fails the test."""

    def refuse(*_):
        raise AssertionError("a reference was opened")

    monkeypatch.setattr("ttc.verify.run.open_reference", refuse)


@pytest.mark.parametrize(
    ("backend", "device", "error", "complaint"),
    [
        ("tensorflow", None, InputError, "unknown backend 'tensorflow'"),
        ("tensorrt-rtx", None, BundleError, "engines.json: missing"),
        ("tensorrt", "cpu", InputError, "runs on cuda or cuda:N"),
        ("torch", "gpu", InputError, "device"),
        ("torch", "cuda", BackendError, "no NVIDIA driver finds a GPU here"),
    ],
)
def test_what_cannot_run_is_refused_before_a_reference(
    bundles, no_reference, backend, device, error, complaint, monkeypatch
):
    monkeypatch.setattr("ttc.verify.preflight.examine_driver", lambda: None)
    with pytest.raises(error, match=complaint):
        verify(bundles("tiny_a"), ["onnxruntime", backend], device=device, record=False, **FEW)


def test_a_bundle_larger_than_memory_is_refused_before_it_is_read(bundles, no_reference, monkeypatch):
    with Bundle.open(bundles("tiny_a")) as opened:
        need = 4 * sum(math.prod(entry.shape) for entry in opened.weights.values())
    monkeypatch.setattr("ttc.verify.preflight.physical_bytes", lambda: need - 1)
    monkeypatch.setattr("ttc.model.bundle.Bundle.read_weight", lambda *_: pytest.fail("a weight was read"))
    with pytest.raises(InputError, match=r"this machine has .* GB of memory; verify on a machine with more"):
        verify(bundles("tiny_a"), weights=True, record=False, **FEW)
    monkeypatch.setattr("ttc.verify.preflight.physical_bytes", lambda: need)
    with pytest.raises(AssertionError, match="a reference was opened"):  # it fits, so it goes on
        verify(bundles("tiny_a"), record=False, **FEW)


def test_the_search_goes_back_to_where_the_error_began():
    """Distances as a fault in layer 2 leaves them: noise, then an error that grows past the tolerance."""
    distances = np.array([1e-7, 2e-7, 1e-4, 2e-4, 6e-4])
    comparisons = [
        Comparison("float32", "a call", "context", "residual", layer, float(far), 3e-4)
        for layer, far in enumerate(distances)
    ]
    found = first_fault(golden("tiny_a").config, comparisons)
    assert found is not None
    assert (found.layer, found.kind) == (2, "Mamba-2")
